package passthrough

import (
	"math"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio/fs/fuse"
)

// hostFlags are those of open(2) that go to the host as they are. O_APPEND does not, because the client's
// write-back of mapped pages may use any open file and means its offsets: it is applied to single writes. Neither
// does O_DIRECT, whose alignment the client need not keep.
const hostFlags = unix.O_ACCMODE | unix.O_TRUNC | unix.O_SYNC | unix.O_DSYNC

func wantsWrite(flags int) bool {
	return flags&unix.O_ACCMODE != unix.O_RDONLY || flags&unix.O_TRUNC != 0
}

// dataVersion is what a file's data looked like when it was last opened: while that doesn't change, what the
// client has cached of it is good.
type dataVersion struct {
	mu           sync.Mutex
	known        bool
	size         uint64
	mtime, ctime unix.StatxTimestamp
}

// settled is how old a change must be for its time stamp to tell it from the next one.
const settled = time.Second

// same tells whether st is what it was at the last call, and remembers st.
func (v *dataVersion) same(st *unix.Statx_t, now time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	same := v.known && v.size == st.Size && v.mtime == st.Mtime && v.ctime == st.Ctime
	v.known = now.Sub(time.Unix(st.Ctime.Sec, int64(st.Ctime.Nsec))) > settled
	v.size, v.mtime, v.ctime = st.Size, st.Mtime, st.Ctime
	return same
}

// opened encodes struct fuse_open_out for a file of n, open as fd, and takes fd over.
func (c *call) opened(n *node, fd, flags int) unix.Errno {
	writable := flags&unix.O_ACCMODE != unix.O_RDONLY
	out := uint32(0)
	if n.share.exclusive {
		out |= fuse.OpenKeepCache
	} else {
		var st unix.Statx_t
		if stat(fd, unix.STATX_BASIC_STATS, &st) == 0 && n.cache.same(&st, time.Now()) {
			out |= fuse.OpenKeepCache
		}
	}
	if !writable {
		out |= fuse.OpenNoFlush
	}
	h, e := c.sess.addHandle(n, fd, writable)
	if e != 0 {
		return e
	}
	c.reply.U64(h.id)
	c.reply.U32(out)
	c.reply.U32(0)
	return 0
}

// open opens a regular file; the client's kernel sees to everything else itself.
func (c *call) open() unix.Errno {
	flags, openFlags, n := int(c.args.U32()), c.args.U32(), c.node
	switch {
	case c.args.Short:
		return unix.EINVAL
	case n.typ == unix.S_IFDIR:
		return unix.EISDIR
	case n.typ == unix.S_IFLNK:
		return unix.ELOOP
	case n.typ != unix.S_IFREG:
		return unix.ENXIO
	case flags&unix.O_ACCMODE == unix.O_ACCMODE:
		return unix.EINVAL
	case n.share.readOnly && wantsWrite(flags):
		return unix.EROFS
	}
	if flags&unix.O_TRUNC != 0 && openFlags&fuse.OpenKillSuidgid != 0 {
		if e := c.dropSetid(n); e != 0 {
			return e
		}
	}
	fd, e := c.openNode(n, flags&hostFlags)
	if e != 0 {
		return e
	}
	return c.opened(n, fd, flags)
}

// create makes a file and opens it. One that exists, because the client did not know it yet, is never opened: the
// client's kernel takes a create that succeeds for its own, and checks no permission of what it gets. ESTALE has
// it look again, find the file, and decide.
func (c *call) create() unix.Errno {
	flags := int(c.args.U32())
	in, _, e := c.makeIn("mu-")
	if e != 0 {
		return e
	}
	if flags&unix.O_ACCMODE == unix.O_ACCMODE {
		return unix.EINVAL
	}
	fd, e := c.openNew(in, flags)
	switch {
	case e == unix.EEXIST && flags&unix.O_EXCL == 0:
		return unix.ESTALE
	case e != 0:
		return e
	}
	e = c.createdAs(fd, flags)
	if e != 0 {
		_ = unix.Unlinkat(c.node.fd, in.name, 0)
	}
	return e
}

// tmpfile makes a file without a name. The one that the client sends means nothing.
func (c *call) tmpfile() unix.Errno {
	flags, in := int(c.args.U32()), newEntry{mode: c.args.U32(), umask: c.args.U32()}
	if c.args.Short {
		return unix.EINVAL
	}
	if e := c.checkMaker(); e != 0 {
		return e
	}
	hostFlags := flags&(hostFlags|unix.O_EXCL)&^unix.O_TRUNC | unix.O_TMPFILE | unix.O_CLOEXEC
	mode, fd := c.masked(in), -1
	e := retry(func() (err error) {
		fd, err = unix.Openat(c.srv.proc.fd, c.srv.proc.name(c.node.fd), hostFlags, mode)
		return err
	})
	if e != 0 {
		return e
	}
	return c.createdAs(fd, flags)
}

// createdAs answers with entry and open file of fd, which was just created, and takes fd over.
func (c *call) createdAs(fd, flags int) unix.Errno {
	var st unix.Statx_t
	n, e := c.given(fd, &st)
	if e != 0 {
		_ = unix.Close(fd)
		return e
	}
	defer n.put()
	c.entry(c.node, n, &st)
	return c.orForget(n, c.opened(n, fd, flags))
}

// orForget takes back the lookup that an entry counted if the client gets an error instead.
func (c *call) orForget(n *node, e unix.Errno) unix.Errno {
	if e != 0 {
		c.sess.forget(n.id, 1)
	}
	return e
}

func (c *call) release() unix.Errno {
	h, e := c.handle(c.args.U64())
	if e != 0 {
		return e
	}
	c.sess.release(h)
	h.put()
	return 0
}

// flush is a close(2) in the client, of which there may be many for an open file. Network file systems of the
// host report errors at it.
func (c *call) flush() unix.Errno {
	h, e := c.handle(c.args.U64())
	if e != 0 {
		return e
	}
	defer h.put()
	if h.fd < 0 {
		return 0
	}
	fd, err := unix.FcntlInt(uintptr(h.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return errno(err)
	}
	if err := unix.Close(fd); err != unix.EINTR {
		return errno(err)
	}
	return 0
}

// fsync is of files and directories.
func (c *call) fsync() unix.Errno {
	fh, flags := c.args.U64(), c.args.U32()
	h, e := c.handle(fh)
	if e != 0 {
		return e
	}
	defer h.put()
	switch {
	case h.fd < 0:
		return 0
	case flags&fuse.FsyncData != 0:
		return retry(func() error { return unix.Fdatasync(h.fd) })
	}
	return retry(func() error { return unix.Fsync(h.fd) })
}

func (c *call) fallocate() unix.Errno {
	fh, off, n, mode := c.args.U64(), c.args.U64(), c.args.U64(), c.args.U32()
	h, e := c.handle(fh)
	if e != 0 {
		return e
	}
	defer h.put()
	if off > math.MaxInt64 || n > math.MaxInt64 {
		return unix.EINVAL
	}
	// Neither this request nor copy_file_range says whether the caller has CAP_FSETID: they count as if nobody had.
	if e := c.dropSetid(c.node); e != 0 {
		return e
	}
	return retry(func() error { return unix.Fallocate(h.fd, mode, int64(off), int64(n)) })
}

// lseek finds data and holes; where a file is read or written is in each request.
func (c *call) lseek() unix.Errno {
	fh, off, whence := c.args.U64(), c.args.U64(), c.args.U32()
	h, e := c.handle(fh)
	if e != 0 {
		return e
	}
	defer h.put()
	if c.node.typ != unix.S_IFREG || (whence != unix.SEEK_DATA && whence != unix.SEEK_HOLE) {
		return unix.EINVAL
	}
	pos, err := unix.Seek(h.fd, int64(off), int(whence))
	if err != nil {
		return errno(err)
	}
	c.reply.U64(uint64(pos))
	return 0
}

// copyFileRange copies up to 1 GiB at a time, so that the length fits the reply and no worker is held for long.
func (c *call) copyFileRange() unix.Errno {
	a := &c.args
	fhIn, offIn, idOut, fhOut, offOut, n, flags := a.U64(), a.U64(), a.U64(), a.U64(), a.U64(), a.U64(), a.U64()
	in, e := c.handle(fhIn)
	if e != 0 {
		return e
	}
	defer in.put()
	if flags != 0 || offIn > math.MaxInt64 || offOut > math.MaxInt64 {
		return unix.EINVAL
	}
	target := c.sess.node(idOut)
	if target == nil {
		return unix.ESTALE
	}
	// The target is what the rest is about, and what is put at the end.
	c.node.put()
	c.node = target
	switch {
	case target.share == nil:
		return unix.EINVAL
	case target.share.readOnly:
		return unix.EROFS
	}
	out, e := c.handle(fhOut)
	if e != 0 {
		return e
	}
	defer out.put()
	if e := c.dropSetid(c.node); e != 0 {
		return e
	}
	from, to, done := int64(offIn), int64(offOut), 0
	e = retry(func() (err error) {
		done, err = unix.CopyFileRange(in.fd, &from, out.fd, &to, int(min(n, 1<<30)), 0)
		return err
	})
	if e != 0 {
		return e
	}
	c.reply.U32(uint32(done))
	c.reply.U32(0)
	return 0
}

// ioctl: none reaches the host.
func (c *call) ioctl() unix.Errno { return unix.ENOTTY }
