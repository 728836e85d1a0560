package passthrough

import (
	"math"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio/fs/fuse"
)

const (
	maxIOV = 1024 // IOV_MAX

	// maxTransfer is the most that a client which keeps to what was negotiated moves at once: its pages are up to
	// 64 KiB. More would hold a worker, and so the end of the device, for as long as the client likes.
	maxTransfer = maxPages * 64 << 10
)

// read moves data from the file straight to the client's memory, and puts the header before it afterwards, when
// its length is known. A short answer means the end of the file, so whatever is short is tried again.
func (c *call) read() unix.Errno {
	fh, off, size := c.args.U64(), c.args.U64(), c.args.U32()
	h, e := c.handle(fh)
	if e != 0 {
		return e
	}
	defer h.put()
	if h.fd < 0 || off > math.MaxInt64 || size > maxTransfer {
		return unix.EINVAL
	}
	c.head = limit(c.head[:0], c.req.Writable(), fuse.OutHeaderSize)
	c.req.Filled(fuse.OutHeaderSize)
	done, e := c.transfer(uint64(min(int64(size), int64(c.room))), func(iov [][]byte, done int) (int, error) {
		return unix.Preadv(h.fd, iov, int64(off)+int64(done))
	})
	c.req.Filled(uint64(done))
	if done > 0 {
		e = 0
	}
	head := c.header(done, e)
	for rest, i := head[:], 0; i < len(c.head); i++ {
		rest = rest[copy(c.head[i], rest):]
	}
	c.replied = true
	return 0
}

// write moves data from the client's memory straight to the file.
func (c *call) write() unix.Errno {
	fh, off, size, writeFlags := c.args.U64(), c.args.U64(), c.args.U32(), c.args.U32()
	c.args.U64()
	flags := c.args.U32()
	h, e := c.handle(fh)
	if e != 0 {
		return e
	}
	defer h.put()
	if h.fd < 0 || off > math.MaxInt64 || size > maxTransfer || uint64(size) > c.req.ReadableLen() {
		return unix.EINVAL
	}
	if writeFlags&fuse.WriteKillSuidgid != 0 {
		if e := c.dropSetid(c.node); e != 0 {
			return e
		}
	}
	appending := flags&unix.O_APPEND != 0 && writeFlags&fuse.WriteCache == 0
	done, e := c.transfer(uint64(size), func(iov [][]byte, done int) (int, error) {
		if appending {
			return unix.Pwritev2(h.fd, iov, int64(off), unix.RWF_APPEND)
		}
		return unix.Pwritev(h.fd, iov, int64(off)+int64(done))
	})
	if e != 0 && done == 0 {
		return e
	}
	c.reply.U32(uint32(done))
	c.reply.U32(0)
	return 0
}

// transfer has move called until size bytes are moved, or no more come, or there is an error. The client's
// memory is Writable, or Readable when there is something left to read: a request's data.
func (c *call) transfer(size uint64, move func(iov [][]byte, done int) (int, error)) (int, unix.Errno) {
	segs := c.req.Readable()
	if c.hdr.Opcode == fuse.Read {
		segs = c.req.Writable()
	}
	c.iov = limit(c.iov[:0], segs, size)
	done := 0
	for rest := c.iov; len(rest) > 0; {
		n := 0
		e := retry(func() (err error) {
			n, err = move(rest[:min(len(rest), maxIOV)], done)
			return err
		})
		if e != 0 || n <= 0 {
			return done, e
		}
		done += n
		rest = advance(rest, n)
	}
	return done, 0
}

// limit appends to dst the first n bytes of segs.
func limit(dst, segs [][]byte, n uint64) [][]byte {
	for _, s := range segs {
		if n == 0 {
			break
		}
		if len(s) == 0 {
			continue
		}
		s = s[:min(uint64(len(s)), n)]
		n -= uint64(len(s))
		dst = append(dst, s)
	}
	return dst
}

// advance returns iov without its first n bytes, and may change its elements.
func advance(iov [][]byte, n int) [][]byte {
	for len(iov) > 0 && n >= len(iov[0]) {
		n -= len(iov[0])
		iov = iov[1:]
	}
	if n > 0 && len(iov) > 0 {
		iov[0] = iov[0][n:]
	}
	return iov
}
