package passthrough

import (
	"golang.org/x/sys/unix"
)

func (c *call) unlink() unix.Errno { return c.removeName(0) }
func (c *call) rmdir() unix.Errno  { return c.removeName(unix.AT_REMOVEDIR) }

func (c *call) removeName(flags int) unix.Errno {
	name, e := c.name()
	if e != 0 {
		return e
	}
	return retry(func() error { return unix.Unlinkat(c.node.fd, name, flags) })
}

func (c *call) rename() unix.Errno {
	dir := c.args.U64()
	return c.move(dir, 0)
}

func (c *call) rename2() unix.Errno {
	dir, flags := c.args.U64(), c.args.U32()
	c.args.U32()
	const known = unix.RENAME_NOREPLACE | unix.RENAME_EXCHANGE | unix.RENAME_WHITEOUT
	if flags&^known != 0 {
		return unix.EINVAL
	}
	return c.move(dir, uint(flags))
}

// move renames within one share; across two it is as across file systems.
func (c *call) move(dirID uint64, flags uint) unix.Errno {
	from, e := c.name()
	if e != 0 {
		return e
	}
	to, e := c.name()
	if e != 0 {
		return e
	}
	dir := c.sess.node(dirID)
	if dir == nil {
		return unix.ESTALE
	}
	defer dir.put()
	if dir.share != c.node.share {
		return unix.EXDEV
	}
	return retry(func() error { return unix.Renameat2(c.node.fd, from, dir.fd, to, flags) })
}
