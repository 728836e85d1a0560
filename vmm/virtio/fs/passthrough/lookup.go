package passthrough

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio/fs/fuse"
)

const statMask = unix.STATX_BASIC_STATS | unix.STATX_MNT_ID

// stat reads the attributes of the inode behind fd, which may be O_PATH.
func stat(fd int, mask int, st *unix.Statx_t) unix.Errno {
	return errno(unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, mask, st))
}

// openChild gives an O_PATH descriptor of what name is in dir, be it a symbolic link. This is the only place
// where a name of the client's that exists is resolved.
func openChild(dir *node, name string) (int, unix.Errno) {
	fd, err := unix.Openat(dir.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	return fd, errno(err)
}

// openNode opens n, a regular file or a directory, for I/O. Reading a read-only share leaves no trace in its time
// stamps, where the server may say so: the file's owner and CAP_FOWNER may.
func (c *call) openNode(n *node, flags int) (int, unix.Errno) {
	if n.share.readOnly {
		if fd, e := c.srv.proc.open(n.fd, flags|unix.O_NOATIME); e != unix.EPERM {
			return fd, e
		}
	}
	return c.srv.proc.open(n.fd, flags)
}

// adopt makes a node of fd, an O_PATH descriptor of something in parent, and takes fd over. The node is for use
// until put.
func (c *call) adopt(parent *node, sh *share, fd int, st *unix.Statx_t) (*node, unix.Errno) {
	if e := stat(fd, statMask, st); e != 0 {
		_ = unix.Close(fd)
		return nil, e
	}
	return c.sess.intern(parent, sh, fd, st)
}

// child looks name up in parent.
func (c *call) child(parent *node, name string, st *unix.Statx_t) (*node, unix.Errno) {
	if parent.share == nil {
		sh, fd, e := c.srv.lookupShare(name)
		if e != 0 {
			return nil, e
		}
		defer sh.open.Done()
		return c.adopt(parent, sh, fd, st)
	}
	if parent.typ != unix.S_IFDIR {
		return nil, unix.ENOTDIR
	}
	fd, e := openChild(parent, name)
	if e != 0 {
		return nil, e
	}
	return c.adopt(parent, parent.share, fd, st)
}

func (c *call) lookup() unix.Errno {
	name, e := c.name()
	if e != 0 {
		return e
	}
	var st unix.Statx_t
	n, e := c.child(c.node, name, &st)
	if e == unix.ENOENT && c.node.share != nil && c.node.share.validity > 0 {
		c.negative(c.node.share)
		return 0
	}
	if e != 0 {
		return e
	}
	defer n.put()
	c.entry(c.node, n, &st)
	return 0
}

// entry encodes struct fuse_entry_out for n, a name in parent. Shares come and go, so their names are always
// asked for again.
func (c *call) entry(parent, n *node, st *unix.Statx_t) {
	attr, name := n.share.validity, n.share.validity
	if parent.share == nil {
		name = 0
	}
	c.reply.U64(n.id)
	c.reply.U64(0) // generation: an id is never used again
	c.validities(name, attr)
	c.attr(n, st)
}

// negative encodes that a name doesn't exist, and that the client may remember it.
func (c *call) negative(sh *share) {
	c.reply.Zero(16)
	c.validities(sh.validity, 0)
	c.reply.Zero(fuse.AttrSize)
}

func (c *call) validities(name, attr time.Duration) {
	c.reply.U64(uint64(name / time.Second))
	c.reply.U64(uint64(attr / time.Second))
	c.reply.U32(uint32(name % time.Second))
	c.reply.U32(uint32(attr % time.Second))
}

// attr encodes struct fuse_attr.
func (c *call) attr(n *node, st *unix.Statx_t) {
	r := &c.reply
	r.U64(st.Ino ^ n.inoMask)
	r.U64(st.Size)
	r.U64(st.Blocks)
	r.U64(uint64(st.Atime.Sec))
	r.U64(uint64(st.Mtime.Sec))
	r.U64(uint64(st.Ctime.Sec))
	r.U32(st.Atime.Nsec)
	r.U32(st.Mtime.Nsec)
	r.U32(st.Ctime.Nsec)
	r.U32(uint32(st.Mode))
	r.U32(st.Nlink)
	r.U32(st.Uid)
	r.U32(st.Gid)
	r.U32(encodeDev(st.Rdev_major, st.Rdev_minor))
	r.U32(st.Blksize)
	if n.submount {
		r.U32(fuse.AttrSubmount)
	} else {
		r.U32(0)
	}
}

// encodeDev is the kernel's new_encode_dev.
func encodeDev(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | minor&^0xff<<12
}
