package passthrough

import (
	"math"
	"time"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio/fs/fuse"
)

// rootStat is the synthetic root's.
var rootStat = unix.Statx_t{
	Mask: unix.STATX_BASIC_STATS, Ino: fuse.RootID, Mode: unix.S_IFDIR | 0o555, Nlink: 2, Blksize: 4096,
}

// stat reads the attributes of the header's node.
func (c *call) stat(mask int, st *unix.Statx_t) unix.Errno {
	if c.node.share == nil {
		*st = rootStat
		return 0
	}
	return stat(c.node.fd, mask, st)
}

func (c *call) validity() time.Duration {
	if c.node.share == nil {
		return DefaultValidity
	}
	return c.node.share.validity
}

func (c *call) getattr() unix.Errno {
	var st unix.Statx_t
	if e := c.stat(unix.STATX_BASIC_STATS, &st); e != 0 {
		return e
	}
	v := c.validity()
	c.reply.U64(uint64(v / time.Second))
	c.reply.U32(uint32(v % time.Second))
	c.reply.U32(0)
	c.attr(c.node, &st)
	return 0
}

func (c *call) statx() unix.Errno {
	var st unix.Statx_t
	if e := c.stat(unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st); e != 0 {
		return e
	}
	v, r := c.validity(), &c.reply
	r.U64(uint64(v / time.Second))
	r.U32(uint32(v % time.Second))
	r.U32(0)
	r.Zero(16)

	r.U32(st.Mask & (unix.STATX_BASIC_STATS | unix.STATX_BTIME))
	r.U32(st.Blksize)
	r.U64(0) // attributes
	r.U32(st.Nlink)
	r.U32(st.Uid)
	r.U32(st.Gid)
	r.U16(st.Mode)
	r.U16(0)
	r.U64(st.Ino ^ c.node.inoMask)
	r.U64(st.Size)
	r.U64(st.Blocks)
	r.U64(0) // attributes mask
	for _, t := range []unix.StatxTimestamp{st.Atime, st.Btime, st.Ctime, st.Mtime} {
		r.U64(uint64(t.Sec))
		r.U32(t.Nsec)
		r.U32(0)
	}
	r.U32(st.Rdev_major)
	r.U32(st.Rdev_minor)
	r.U32(st.Dev_major)
	r.U32(st.Dev_minor)
	r.Zero(14 * 8)
	return 0
}

// setattrIn is struct fuse_setattr_in.
type setattrIn struct {
	valid                uint32
	fh, size             uint64
	atime, mtime         uint64
	atimeNsec, mtimeNsec uint32
	mode, uid, gid       uint32
}

func (c *call) setattrIn() (in setattrIn, e unix.Errno) {
	a := &c.args
	in.valid = a.U32()
	a.U32()
	in.fh, in.size = a.U64(), a.U64()
	a.U64() // lock owner
	in.atime, in.mtime = a.U64(), a.U64()
	a.U64() // ctime can't be set
	in.atimeNsec, in.mtimeNsec = a.U32(), a.U32()
	a.U32()
	in.mode = a.U32()
	a.U32()
	in.uid, in.gid = a.U32(), a.U32()
	a.U32()
	if a.Short {
		return in, unix.EINVAL
	}
	return in, 0
}

// setattr changes the owner first: that clears set-id bits, which a mode given with it must outlive.
func (c *call) setattr() unix.Errno {
	in, e := c.setattrIn()
	if e == 0 && in.valid&(fuse.SetUID|fuse.SetGID) != 0 {
		e = c.setOwner(in)
	}
	if e == 0 && in.valid&fuse.SetMode != 0 {
		e = c.chmod(c.node, in.mode)
	}
	if e == 0 && in.valid&fuse.SetSize != 0 {
		e = c.truncate(in)
	}
	if e == 0 && in.valid&(fuse.SetAtime|fuse.SetMtime) != 0 {
		e = c.setTimes(in)
	}
	if e != 0 {
		return e
	}
	return c.getattr()
}

func (c *call) setOwner(in setattrIn) unix.Errno {
	const leave = math.MaxUint32 // as the host understands it; the client says so by leaving the field out
	if (in.valid&fuse.SetUID != 0 && in.uid == leave) || (in.valid&fuse.SetGID != 0 && in.gid == leave) {
		return unix.EINVAL
	}
	uid, gid := -1, -1
	if in.valid&fuse.SetUID != 0 {
		uid = int(in.uid)
	}
	if in.valid&fuse.SetGID != 0 {
		gid = int(in.gid)
	}
	return retry(func() error { return unix.Fchownat(c.node.fd, "", uid, gid, unix.AT_EMPTY_PATH) })
}

// chmod goes through /proc, where the last component is the inode itself.
func (c *call) chmod(n *node, mode uint32) unix.Errno {
	if n.typ == unix.S_IFLNK {
		return unix.EOPNOTSUPP
	}
	return retry(func() error {
		return unix.Fchmodat(c.srv.proc.fd, c.srv.proc.name(n.fd), mode&0o7777, 0)
	})
}

// dropSetid does what a write by someone without CAP_FSETID does to a file: away with set-uid, and with set-gid
// if the group may execute. Before the write, so that there is no moment with both. A change of owner to the same
// has the host's kernel do that, all at once: a mode read here and written back would undo another's chmod.
func (c *call) dropSetid(n *node) unix.Errno {
	var st unix.Statx_t
	if e := stat(n.fd, unix.STATX_MODE, &st); e != 0 {
		return e
	}
	setgid := st.Mode&(unix.S_ISGID|unix.S_IXGRP) == unix.S_ISGID|unix.S_IXGRP
	if n.typ != unix.S_IFREG || (st.Mode&unix.S_ISUID == 0 && !setgid) {
		return 0
	}
	return retry(func() error { return unix.Fchownat(n.fd, "", -1, -1, unix.AT_EMPTY_PATH) })
}

func (c *call) truncate(in setattrIn) unix.Errno {
	switch {
	case c.node.typ == unix.S_IFDIR:
		return unix.EISDIR
	case c.node.typ != unix.S_IFREG || in.size > math.MaxInt64:
		return unix.EINVAL
	}
	if in.valid&fuse.SetKillSuidgid != 0 {
		if e := c.dropSetid(c.node); e != 0 {
			return e
		}
	}
	if in.valid&fuse.SetFH != 0 {
		if h := c.sess.handle(in.fh, c.node); h != nil {
			defer h.put()
			if h.writable {
				return retry(func() error { return unix.Ftruncate(h.fd, int64(in.size)) })
			}
		}
	}
	fd, e := c.srv.proc.open(c.node.fd, unix.O_WRONLY)
	if e != 0 {
		return e
	}
	defer func() { _ = unix.Close(fd) }()
	return retry(func() error { return unix.Ftruncate(fd, int64(in.size)) })
}

func (c *call) setTimes(in setattrIn) unix.Errno {
	const second = 1e9
	ts := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}
	for i, t := range []struct {
		set, now uint32
		sec      uint64
		nsec     uint32
	}{
		{fuse.SetAtime, fuse.SetAtimeNow, in.atime, in.atimeNsec},
		{fuse.SetMtime, fuse.SetMtimeNow, in.mtime, in.mtimeNsec},
	} {
		var err error
		switch {
		case in.valid&t.set == 0:
		case in.valid&t.now != 0:
			ts[i].Nsec = unix.UTIME_NOW
		case t.nsec >= second:
			return unix.EINVAL
		default:
			if ts[i], err = unix.TimeToTimespec(time.Unix(int64(t.sec), int64(t.nsec))); err != nil {
				return unix.EOVERFLOW
			}
		}
	}
	return retry(func() error { return unix.UtimesNanoAt(c.srv.proc.fd, c.srv.proc.name(c.node.fd), ts[:], 0) })
}

// access only knows what the client's kernel can't: whether the share is read-only.
func (c *call) access() unix.Errno {
	mask := c.args.U32()
	readOnly := c.node.share == nil || c.node.share.readOnly
	switch {
	case c.args.Short:
		return unix.EINVAL
	case mask&unix.W_OK != 0 && readOnly:
		return unix.EROFS
	}
	return 0
}

func (c *call) readlink() unix.Errno {
	if c.node.typ != unix.S_IFLNK {
		return unix.EINVAL
	}
	c.dents = grow(c.dents, min(c.room, unix.PathMax))
	n, err := unix.Readlinkat(c.node.fd, "", c.dents)
	if err != nil {
		return errno(err)
	}
	c.reply.Bytes(c.dents[:n])
	return 0
}

func (c *call) statfs() unix.Errno {
	st := unix.Statfs_t{Bsize: 4096, Frsize: 4096, Namelen: 255}
	if c.node.share != nil {
		if e := retry(func() error { return unix.Fstatfs(c.node.fd, &st) }); e != 0 {
			return e
		}
	}
	r := &c.reply
	r.U64(st.Blocks)
	r.U64(st.Bfree)
	r.U64(st.Bavail)
	r.U64(st.Files)
	r.U64(st.Ffree)
	r.U32(uint32(st.Bsize))
	r.U32(uint32(st.Namelen))
	r.U32(uint32(st.Frsize))
	r.Zero(4 * 7)
	return 0
}

// syncfs writes out the file system of a share, or, asked of the root, of all shares that can be written.
func (c *call) syncfs() unix.Errno {
	switch sh := c.node.share; {
	case sh == nil:
	case sh.readOnly: // of the client's there is nothing to write out
		return 0
	default:
		return c.syncOne(c.node.fd, c.node.typ)
	}
	for _, sh := range c.srv.sharesAfter(0) {
		if sh.readOnly {
			continue
		}
		var st unix.Statx_t
		n, e := c.child(c.node, sh.name, &st)
		if e != 0 {
			continue // removed meanwhile
		}
		e = c.syncOne(n.fd, n.typ)
		n.put()
		c.sess.forget(n.id, 1)
		if e != 0 {
			return e
		}
	}
	return 0
}

func (c *call) syncOne(fd int, typ uint32) unix.Errno {
	if typ != unix.S_IFREG && typ != unix.S_IFDIR {
		return 0
	}
	f, e := c.srv.proc.open(fd, unix.O_RDONLY)
	if e != 0 {
		return e
	}
	defer func() { _ = unix.Close(f) }()
	return retry(func() error { return unix.Syncfs(f) })
}

// grow returns a slice of n bytes in b's storage if that is large enough.
func grow(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}
