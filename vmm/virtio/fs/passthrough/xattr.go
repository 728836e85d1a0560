package passthrough

import (
	"bytes"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio/fs/fuse"
)

// Attributes that only a privileged process may use, on the host as in the client, are kept under names that
// need no privilege: trusted.x is user.husk.trusted.x on the host. So the client's kernel decides who may use
// them, the server needs no capability for it, and a client can't leave a trusted.overlay.redirect where the
// host's overlayfs would believe it. The host's own stay invisible. security.capability is the exception: it must
// work when the host runs the file, or another client.
const (
	mapped          = "user.husk."
	capability      = "security.capability"
	aclAccess       = "system.posix_acl_access"
	aclDefault      = "system.posix_acl_default"
	maxXattrValue   = 64 << 10 // XATTR_SIZE_MAX, XATTR_LIST_MAX
	xattrFlagsKnown = unix.XATTR_CREATE | unix.XATTR_REPLACE
)

func isMapped(name string) bool {
	return strings.HasPrefix(name, "trusted.") || (strings.HasPrefix(name, "security.") && name != capability)
}

// hostXattr is the host's name of a client's attribute. EPERM is for what the client can't have, EOPNOTSUPP for what
// nobody has.
func hostXattr(name string) (string, unix.Errno) {
	switch {
	case isMapped(name):
		return mapped + name, 0
	case strings.HasPrefix(name, mapped):
		return "", unix.EPERM // that would be a way around the client's kernel
	case strings.HasPrefix(name, "user.") || name == capability || name == aclAccess || name == aclDefault:
		return name, 0
	}
	return "", unix.EOPNOTSUPP
}

// lookXattr is hostXattr of an attribute that is to be there: what the client can't have is not.
func lookXattr(name string) (string, unix.Errno) {
	host, e := hostXattr(name)
	if e == unix.EPERM {
		e = unix.ENODATA
	}
	return host, e
}

// clientXattrs turns the host's list of names into the client's.
func clientXattrs(dst, list []byte) []byte {
	for name := range bytes.SplitSeq(list, []byte{0}) {
		if rest, ok := bytes.CutPrefix(name, []byte(mapped)); ok {
			name = rest
			if !isMapped(string(name)) {
				continue
			}
		} else if _, e := hostXattr(string(name)); e != 0 || isMapped(string(name)) {
			continue
		}
		dst = append(append(dst, name...), 0)
	}
	return dst
}

// withXattrs calls byFD with the header's node open, or, if it must not be opened, byPath with a name of it in
// the working directory.
func (c *call) withXattrs(byFD func(fd int) error, byPath func(path string) error) unix.Errno {
	p := c.srv.proc
	if c.node.typ == unix.S_IFREG || c.node.typ == unix.S_IFDIR {
		fd, e := p.open(c.node.fd, unix.O_RDONLY|unix.O_NONBLOCK)
		if e != 0 {
			return e
		}
		defer func() { _ = unix.Close(fd) }()
		return retry(func() error { return byFD(fd) })
	}
	var e unix.Errno
	p.do(func() { e = retry(func() error { return byPath(p.name(c.node.fd)) }) })
	return e
}

func (c *call) getxattr() unix.Errno {
	size := c.args.U32()
	c.args.U32()
	name := c.args.String()
	if c.args.Short {
		return unix.EINVAL
	}
	if c.node.share == nil {
		return unix.ENODATA
	}
	host, e := lookXattr(name)
	if e != 0 {
		return e
	}
	c.dents = grow(c.dents, int(min(size, maxXattrValue)))
	buf, n := c.dents, 0
	e = c.withXattrs(
		func(fd int) (err error) { n, err = unix.Fgetxattr(fd, host, buf); return err },
		func(path string) (err error) { n, err = unix.Getxattr(path, host, buf); return err })
	if e != 0 {
		return e
	}
	return c.xattrReply(size, n, buf)
}

func (c *call) listxattr() unix.Errno {
	size := c.args.U32()
	if c.args.Short {
		return unix.EINVAL
	}
	if c.node.share == nil {
		return c.xattrReply(size, 0, nil)
	}
	c.dents = grow(c.dents, maxXattrValue)
	buf, n := c.dents, 0
	e := c.withXattrs(
		func(fd int) (err error) { n, err = unix.Flistxattr(fd, buf); return err },
		func(path string) (err error) { n, err = unix.Listxattr(path, buf); return err })
	if e != 0 {
		return e
	}
	list := clientXattrs(nil, buf[:n])
	return c.xattrReply(size, len(list), list)
}

// xattrReply answers with n bytes of buf, or, if the client asked for 0, with n.
func (c *call) xattrReply(size uint32, n int, buf []byte) unix.Errno {
	switch {
	case size == 0:
		c.reply.U32(uint32(n))
		c.reply.U32(0)
	case n > int(size) || n > c.room:
		return unix.ERANGE
	default:
		c.reply.Bytes(buf[:n])
	}
	return 0
}

func (c *call) setxattr() unix.Errno {
	size, flags, extra := c.args.U32(), c.args.U32(), uint32(0)
	if c.sess.caps&fuse.CapSetxattrExt != 0 {
		extra = c.args.U32()
		c.args.U32()
	}
	name := c.args.String()
	value := c.args.Bytes(int(min(size, maxXattrValue+1)))
	host, e := hostXattr(name)
	switch {
	case c.args.Short || flags&^xattrFlagsKnown != 0:
		return unix.EINVAL
	case size > maxXattrValue:
		return unix.E2BIG
	case e != 0:
		return e
	}
	e = c.withXattrs(
		func(fd int) error { return unix.Fsetxattr(fd, host, value, int(flags)) },
		func(path string) error { return unix.Setxattr(path, host, value, int(flags)) })
	if e == 0 && name == aclAccess && extra&fuse.XattrACLKillSgid != 0 {
		return c.dropSgid()
	}
	return e
}

func (c *call) removexattr() unix.Errno {
	name := c.args.String()
	if c.args.Short {
		return unix.EINVAL
	}
	host, e := lookXattr(name)
	if e != 0 {
		return e
	}
	return c.withXattrs(
		func(fd int) error { return unix.Fremovexattr(fd, host) },
		func(path string) error { return unix.Removexattr(path, host) })
}

// dropSgid is asked for when who sets an ACL is not in the file's group.
func (c *call) dropSgid() unix.Errno {
	var st unix.Statx_t
	if e := stat(c.node.fd, unix.STATX_MODE, &st); e != 0 {
		return e
	}
	if st.Mode&unix.S_ISGID == 0 {
		return 0
	}
	return c.chmod(c.node, uint32(st.Mode)&^unix.S_ISGID)
}
