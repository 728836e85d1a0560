package passthrough

import (
	"math"

	"golang.org/x/sys/unix"
)

// Whoever creates something owns it. The server creates as its own user and then gives it away by descriptor,
// before the client is told of it. Taking on the client's ids instead (setfsuid) would need a thread of one's own
// and would have the host check permissions again, which it can't: it doesn't know the supplementary groups and
// capabilities by which the client's kernel has decided already.

// newEntry are the arguments all creating operations have.
type newEntry struct {
	mode, umask uint32
	name        string
}

// makeIn reads fields in the order of the letters, then a name: m is the mode, u the umask, o the operation's
// own, - nothing.
func (c *call) makeIn(fields string) (in newEntry, own uint32, e unix.Errno) {
	for _, f := range fields {
		v := c.args.U32()
		switch f {
		case 'm':
			in.mode = v
		case 'u':
			in.umask = v
		case 'o':
			own = v
		}
	}
	in.name, e = c.name()
	if e == 0 {
		e = c.checkMaker()
	}
	return in, own, e
}

// checkMaker refuses what makes no sense in every creation.
func (c *call) checkMaker() unix.Errno {
	switch {
	case c.node.typ != unix.S_IFDIR:
		return unix.ENOTDIR
	case c.hdr.UID == math.MaxUint32 || c.hdr.GID == math.MaxUint32:
		return unix.EOVERFLOW
	}
	return 0
}

// masked is the mode to create with. A default ACL of the directory takes the umask's place, and is applied by
// the host's kernel; the client leaves the choice to us (FUSE_DONT_MASK).
func (c *call) masked(in newEntry) uint32 {
	mode := in.mode & 0o7777
	if mode&in.umask == 0 {
		return mode
	}
	fd, e := c.srv.proc.open(c.node.fd, unix.O_RDONLY|unix.O_DIRECTORY)
	if e == 0 {
		defer func() { _ = unix.Close(fd) }()
		if n, err := unix.Fgetxattr(fd, aclDefault, nil); err == nil && n > 0 {
			return mode
		}
	}
	return mode &^ (in.umask & 0o777)
}

// ownsAll says that what the server makes is the client's user's already.
func (c *call) ownsAll() bool { return c.hdr.UID == c.srv.uid && c.hdr.GID == c.srv.gid }

// own gives what was just created in the header's node to the client's user. In a set-group-ID directory the
// group is inherited already.
func (c *call) own(fd int) unix.Errno {
	uid, gid := int(c.hdr.UID), int(c.hdr.GID)
	if c.ownsAll() {
		return 0
	}
	var st unix.Statx_t
	if e := stat(c.node.fd, unix.STATX_MODE, &st); e != 0 {
		return e
	}
	if st.Mode&unix.S_ISGID != 0 {
		gid = -1
	}
	if e := stat(fd, unix.STATX_MODE, &st); e != 0 {
		return e
	}
	if e := retry(func() error { return unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH) }); e != 0 {
		return e
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&(unix.S_ISUID|unix.S_ISGID) == 0 {
		return 0
	}
	// The change of owner took these away.
	return retry(func() error {
		return unix.Fchmodat(c.srv.proc.fd, c.srv.proc.name(fd), uint32(st.Mode)&0o7777, 0)
	})
}

// openNew makes a file and opens it; EEXIST whatever there is already.
func (c *call) openNew(in newEntry, flags int) (fd int, e unix.Errno) {
	mode := c.masked(in)
	e = retry(func() (err error) {
		fd, err = unix.Openat(c.node.fd, in.name,
			flags&hostFlags|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
		return err
	})
	return fd, e
}

// given gives the file open as fd, which was just made in the header's node, to the client's user, and returns
// its node, for use until put.
func (c *call) given(fd int, st *unix.Statx_t) (*node, unix.Errno) {
	if e := c.own(fd); e != 0 {
		return nil, e
	}
	path, e := c.srv.proc.open(fd, unix.O_PATH)
	if e != 0 {
		return nil, e
	}
	return c.adopt(c.node, c.node.share, path, st)
}

// errReplaced says that a name just made is something else's by now.
const errReplaced = unix.ESTALE

// made answers for name, which was just made with type typ, and undoes that if it fails.
func (c *call) made(name string, typ uint32) unix.Errno {
	fd, e := openChild(c.node, name)
	if e != 0 {
		return e
	}
	if e = c.checkMade(fd, typ); e == 0 {
		e = c.own(fd)
	}
	var st unix.Statx_t
	var n *node
	if e != 0 {
		_ = unix.Close(fd)
	} else {
		n, e = c.adopt(c.node, c.node.share, fd, &st)
	}
	switch {
	case e == 0:
		defer n.put()
		c.entry(c.node, n, &st)
	case e == errReplaced:
	case typ == unix.S_IFDIR:
		_ = unix.Unlinkat(c.node.fd, name, unix.AT_REMOVEDIR)
	default:
		_ = unix.Unlinkat(c.node.fd, name, 0)
	}
	return e
}

// checkMade is asked before what was found by the name of something just made is given to the client's user.
// Whoever else may write the directory, a user of the host or another client, can have put something of somebody
// else's there in between. So nothing is given away by name that has any content: files are not made by way of
// made, and a directory must be empty.
func (c *call) checkMade(fd int, typ uint32) unix.Errno {
	if c.ownsAll() {
		return 0
	}
	var st unix.Statx_t
	e := stat(fd, unix.STATX_TYPE|unix.STATX_NLINK, &st)
	switch {
	case e != 0:
		return e
	case uint32(st.Mode)&unix.S_IFMT != typ:
		return errReplaced
	case typ == unix.S_IFDIR:
		return c.checkEmpty(fd)
	case st.Nlink != 1:
		return errReplaced
	}
	return 0
}

func (c *call) checkEmpty(fd int) unix.Errno {
	dir, e := c.srv.proc.open(fd, unix.O_RDONLY|unix.O_DIRECTORY)
	if e != 0 {
		return e
	}
	defer func() { _ = unix.Close(dir) }()
	c.dents = grow(c.dents, direntRoom(0, false))
	for {
		n := 0
		e := retry(func() (err error) { n, err = unix.Getdents(dir, c.dents); return err })
		if e != 0 || n <= 0 {
			return e
		}
		if _, _, names := unix.ParseDirent(c.dents[:n], -1, nil); len(names) > 0 { // without the dots
			return errReplaced
		}
	}
}

func (c *call) mkdir() unix.Errno {
	in, _, e := c.makeIn("mu")
	if e != 0 {
		return e
	}
	mode := c.masked(in)
	if e := retry(func() error { return unix.Mkdirat(c.node.fd, in.name, mode) }); e != 0 {
		return e
	}
	return c.made(in.name, unix.S_IFDIR)
}

// mknod makes what opens nothing on the host: files, fifos, sockets, and overlayfs' whiteout, a device 0/0 that
// no driver can have.
func (c *call) mknod() unix.Errno {
	in, rdev, e := c.makeIn("mou-")
	if e != 0 {
		return e
	}
	typ := in.mode & unix.S_IFMT
	switch typ {
	case 0, unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK:
	case unix.S_IFCHR:
		if rdev != 0 {
			return unix.EPERM
		}
	case unix.S_IFBLK:
		return unix.EPERM
	default:
		return unix.EINVAL
	}
	if typ == 0 || typ == unix.S_IFREG {
		return c.mkfile(in)
	}
	mode := c.masked(in) | typ
	if e := retry(func() error { return unix.Mknodat(c.node.fd, in.name, mode, 0) }); e != 0 {
		return e
	}
	return c.made(in.name, typ)
}

func (c *call) mkfile(in newEntry) unix.Errno {
	fd, e := c.openNew(in, unix.O_WRONLY)
	if e != 0 {
		return e
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Statx_t
	n, e := c.given(fd, &st)
	if e != 0 {
		_ = unix.Unlinkat(c.node.fd, in.name, 0)
		return e
	}
	defer n.put()
	c.entry(c.node, n, &st)
	return 0
}

func (c *call) symlink() unix.Errno {
	name, e := c.name()
	target := c.args.String()
	switch {
	case c.args.Short:
		return unix.EINVAL
	case e != 0:
		return e
	case len(target) >= unix.PathMax:
		return unix.ENAMETOOLONG
	}
	if e := c.checkMaker(); e != 0 {
		return e
	}
	if e := retry(func() error { return unix.Symlinkat(target, c.node.fd, name) }); e != 0 {
		return e
	}
	return c.made(name, unix.S_IFLNK)
}

// link goes through /proc, which links the inode itself, a symbolic link or an unnamed file too, and needs no
// capability.
func (c *call) link() unix.Errno {
	id := c.args.U64()
	name, e := c.name()
	if e != 0 {
		return e
	}
	old := c.sess.node(id)
	if old == nil {
		return unix.ESTALE
	}
	defer old.put()
	if old.share != c.node.share {
		return unix.EXDEV
	}
	e = retry(func() error {
		return unix.Linkat(c.srv.proc.fd, c.srv.proc.name(old.fd), c.node.fd, name, unix.AT_SYMLINK_FOLLOW)
	})
	if e != 0 {
		return e
	}
	var st unix.Statx_t
	if e := stat(old.fd, statMask, &st); e != 0 {
		return e
	}
	if !c.sess.again(old) {
		return unix.ESTALE
	}
	c.entry(c.node, old, &st)
	return 0
}
