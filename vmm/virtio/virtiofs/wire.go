package virtiofs

import "encoding/binary"

// The FUSE protocol as far as the device itself looks at it (linux/fuse.h); the rest is the protocol server's.
const (
	headerSize = 40              // fuse_in_header
	headSize   = headerSize + 40 // with fuse_write_in, the longest that data follows
	maxMessage = 64<<10 + 8192   // header, names, and the longest extended attribute there is

	opRead  = 15
	opWrite = 16
)

// opcode is that of a request, which has a whole header.
func opcode(head []byte) uint32 { return binary.NativeEndian.Uint32(head[4:]) }
