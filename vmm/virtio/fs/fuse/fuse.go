// Package fuse is the wire format of FUSE 7.41 as a server sees it: operations, flags, and the encoding of the
// structures of linux/fuse.h in either byte order.
//
// It is a codec and nothing else: it opens no file, keeps no state, and never panics on what a client sends.
// Callers give it bytes of their own, never memory that a guest can still change.
package fuse

// The version spoken (7.41), and the oldest one a client may speak: virtio-fs came with 7.31.
const (
	Major    = 7
	Minor    = 41
	MinMinor = 31
)

// RootID is the node id of the root directory.
const RootID = 1

// Sizes of fixed structures.
const (
	InHeaderSize  = 40
	OutHeaderSize = 16
	AttrSize      = 88
	EntryOutSize  = 40 + AttrSize
	AttrOutSize   = 16 + AttrSize
	StatxOutSize  = 32 + 256
	OpenOutSize   = 16
	WriteInSize   = 40
	WriteOutSize  = 8
	StatfsOutSize = 80
	XattrOutSize  = 8
	LseekOutSize  = 8
	InitOutSize   = 64
	DirentSize    = 24 // without the name
)

// Opcode is an operation.
type Opcode uint32

const (
	Lookup        Opcode = 1
	Forget        Opcode = 2
	Getattr       Opcode = 3
	Setattr       Opcode = 4
	Readlink      Opcode = 5
	Symlink       Opcode = 6
	Mknod         Opcode = 8
	Mkdir         Opcode = 9
	Unlink        Opcode = 10
	Rmdir         Opcode = 11
	Rename        Opcode = 12
	Link          Opcode = 13
	Open          Opcode = 14
	Read          Opcode = 15
	Write         Opcode = 16
	Statfs        Opcode = 17
	Release       Opcode = 18
	Fsync         Opcode = 20
	Setxattr      Opcode = 21
	Getxattr      Opcode = 22
	Listxattr     Opcode = 23
	Removexattr   Opcode = 24
	Flush         Opcode = 25
	Init          Opcode = 26
	Opendir       Opcode = 27
	Readdir       Opcode = 28
	Releasedir    Opcode = 29
	Fsyncdir      Opcode = 30
	Access        Opcode = 34
	Create        Opcode = 35
	Interrupt     Opcode = 36
	Destroy       Opcode = 38
	Ioctl         Opcode = 39
	BatchForget   Opcode = 42
	Fallocate     Opcode = 43
	Readdirplus   Opcode = 44
	Rename2       Opcode = 45
	Lseek         Opcode = 46
	CopyFileRange Opcode = 47
	Syncfs        Opcode = 50
	Tmpfile       Opcode = 51
	Statx         Opcode = 52

	// NumOpcodes is one more than the highest operation known.
	NumOpcodes = 53
)

// initSwapped is Init as it looks when the client has the other byte order.
const initSwapped = uint32(Init) << 24

// Capabilities of the INIT exchange; bits from 32 on travel in flags2.
const (
	CapAsyncRead       uint64 = 1 << 0
	CapAtomicTrunc     uint64 = 1 << 3
	CapBigWrites       uint64 = 1 << 5
	CapDontMask        uint64 = 1 << 6
	CapAutoInvalData   uint64 = 1 << 12
	CapReaddirplus     uint64 = 1 << 13
	CapReaddirplusAuto uint64 = 1 << 14
	CapAsyncDIO        uint64 = 1 << 15
	CapParallelDirops  uint64 = 1 << 18
	CapPosixACL        uint64 = 1 << 20
	CapMaxPages        uint64 = 1 << 22
	CapCacheSymlinks   uint64 = 1 << 23
	CapSubmounts       uint64 = 1 << 27
	CapKillprivV2      uint64 = 1 << 28
	CapSetxattrExt     uint64 = 1 << 29
	CapInitExt         uint64 = 1 << 30
	CapAllowIDMap      uint64 = 1 << 40
)

// AttrSubmount marks, in the attributes of a directory, the root of another file system.
const AttrSubmount = 1 << 0

// Fields of SETATTR that are valid.
const (
	SetMode        = 1 << 0
	SetUID         = 1 << 1
	SetGID         = 1 << 2
	SetSize        = 1 << 3
	SetAtime       = 1 << 4
	SetMtime       = 1 << 5
	SetFH          = 1 << 6
	SetAtimeNow    = 1 << 7
	SetMtimeNow    = 1 << 8
	SetKillSuidgid = 1 << 11
)

// Flags of single operations.
const (
	OpenKillSuidgid  = 1 << 0 // OPEN, CREATE: open_flags in
	OpenKeepCache    = 1 << 1 // open_flags out
	OpenNoFlush      = 1 << 5 // open_flags out
	WriteCache       = 1 << 0
	WriteKillSuidgid = 1 << 2
	XattrACLKillSgid = 1 << 0
	FsyncData        = 1 << 0
)

// InHeader begins every request.
type InHeader struct {
	Len    uint32
	Opcode Opcode
	Unique uint64
	NodeID uint64
	UID    uint32
	GID    uint32
	ExtLen int // bytes of extensions at the end of the request
}

// ParseInHeader decodes a header of InHeaderSize bytes.
func ParseInHeader(b *[InHeaderSize]byte, big bool) InHeader {
	d := Decoder{Big: big, B: b[:]}
	h := InHeader{Len: d.U32(), Opcode: Opcode(d.U32()), Unique: d.U64(), NodeID: d.U64(), UID: d.U32(), GID: d.U32()}
	d.U32() // pid
	h.ExtLen = int(d.U16()) * 8
	return h
}

// InitOrder tells whether the header is one of INIT, and if so whether the client is big-endian. All that
// follows has the same byte order (virtio 1.2 §5.11.6.1).
func InitOrder(b *[InHeaderSize]byte) (big, ok bool) {
	d := Decoder{B: b[4:8]}
	switch d.U32() {
	case uint32(Init):
		return false, true
	case initSwapped:
		return true, true
	}
	return false, false
}

// DirentLen is the size of a directory entry with a name of n bytes.
func DirentLen(n int) int { return (DirentSize + n + 7) &^ 7 }
