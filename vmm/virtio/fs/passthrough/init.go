package passthrough

import (
	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio/fs/fuse"
)

const (
	maxWrite      = 1 << 20
	maxPages      = maxWrite / 4096
	maxBackground = 64 // requests that nobody waits for, such as read-ahead
)

// wanted are the capabilities used if the client has them. Not among them, for a reason: writeback caching (the
// host's changes would be lost), remote locks (the client's kernel does well alone), security contexts and
// supplementary groups at creation (ids are set after it), zero-message open (truncation would be lost).
const wanted = fuse.CapAsyncRead | fuse.CapAtomicTrunc | fuse.CapBigWrites | fuse.CapDontMask |
	fuse.CapAutoInvalData | fuse.CapReaddirplus | fuse.CapReaddirplusAuto | fuse.CapAsyncDIO |
	fuse.CapParallelDirops | fuse.CapPosixACL | fuse.CapMaxPages | fuse.CapCacheSymlinks |
	fuse.CapSubmounts | fuse.CapKillprivV2 | fuse.CapSetxattrExt | fuse.CapInitExt |
	fuse.CapAllowIDMap // with which only creations name a user: all that this server uses

// init begins a session, and ends the one before.
func (c *call) init() unix.Errno {
	major, minor, readahead, caps := c.args.U32(), c.args.U32(), c.args.U32(), uint64(c.args.U32())
	switch {
	case c.args.Short:
		return unix.EINVAL
	case major > fuse.Major:
		// The client is to try again with our version.
		c.reply.U32(fuse.Major)
		c.reply.U32(fuse.Minor)
		c.reply.Zero(fuse.InitOutSize - 8)
		return 0
	case major < fuse.Major || minor < fuse.MinMinor:
		return unix.EPROTO
	}
	if caps&fuse.CapInitExt != 0 {
		caps |= uint64(c.args.U32()) << 32
		if c.args.Short {
			return unix.EINVAL
		}
	}
	caps &= wanted
	c.srv.begin(newSession(c.args.Big, caps, c.srv.limit, c.srv.crowded))

	c.reply.U32(fuse.Major)
	c.reply.U32(min(minor, fuse.Minor))
	c.reply.U32(readahead)
	c.reply.U32(uint32(caps))
	c.reply.U16(maxBackground)
	c.reply.U16(maxBackground * 3 / 4)
	c.reply.U32(maxWrite)
	c.reply.U32(1) // nanoseconds
	c.reply.U16(maxPages)
	c.reply.U16(0)
	c.reply.U32(uint32(caps >> 32))
	c.reply.Zero(fuse.InitOutSize - 36)
	return 0
}

// destroy ends the session; all goes that the client has not forgotten and released itself.
func (c *call) destroy() unix.Errno {
	if c.srv.session.CompareAndSwap(c.sess, nil) {
		c.sess.drop(nil)
	}
	return 0
}

// interrupt may be ignored, and is: nothing here waits for anything but the host's disk.
func (c *call) interrupt() unix.Errno { return 0 }

func (c *call) forget() unix.Errno {
	if n := c.args.U64(); !c.args.Short {
		c.sess.forget(c.hdr.NodeID, n)
	}
	return 0
}

func (c *call) batchForget() unix.Errno {
	count := c.args.U32()
	c.args.U32()
	for ; count > 0; count-- {
		id, n := c.args.U64(), c.args.U64()
		if c.args.Short {
			break
		}
		c.sess.forget(id, n)
	}
	return 0
}
