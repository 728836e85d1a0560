package passthrough

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio/fs/fuse"
)

// direntHeader is the part of the host's struct linux_dirent64 before the name.
const direntHeader = 19

func (c *call) opendir() unix.Errno {
	fd := -1
	if c.node.typ != unix.S_IFDIR {
		return unix.ENOTDIR
	}
	if c.node.share != nil {
		var e unix.Errno
		if fd, e = c.openNode(c.node, unix.O_RDONLY|unix.O_DIRECTORY); e != 0 {
			return e
		}
	}
	h, e := c.sess.addHandle(c.node, fd, false)
	if e != 0 {
		return e
	}
	c.reply.U64(h.id)
	c.reply.U64(0)
	return 0
}

func (c *call) readdir() unix.Errno     { return c.list(false) }
func (c *call) readdirplus() unix.Errno { return c.list(true) }

// list answers with as many entries from an offset on as fit. Offsets are the host's file system's own, which
// are stable while the directory changes.
func (c *call) list(plus bool) unix.Errno {
	fh, off, size := c.args.U64(), c.args.U64(), c.args.U32()
	h, e := c.handle(fh)
	if e != 0 {
		return e
	}
	defer h.put()
	room := int(min(int64(size), int64(c.room), maxKept))
	if c.node.share == nil {
		return c.listShares(off, room, plus)
	}
	if c.node.typ != unix.S_IFDIR {
		return unix.ENOTDIR
	}
	h.dirMu.Lock()
	defer h.dirMu.Unlock()
	if h.dirPos != int64(off) {
		if _, err := unix.Seek(h.fd, int64(off), unix.SEEK_SET); err != nil {
			return errno(err)
		}
	}
	h.dirPos = -1
	pos := int64(off)
	for {
		c.dents = grow(c.dents, direntRoom(room-len(c.reply.B), plus))
		n := 0
		e := retry(func() (err error) { n, err = unix.Getdents(h.fd, c.dents); return err })
		if e != 0 && len(c.reply.B) == 0 {
			return e
		}
		if e != 0 || n <= 0 {
			break
		}
		full := c.listed(c.dents[:n], room, plus, &pos)
		if full && len(c.reply.B) == 0 {
			return unix.EINVAL // not even one fits
		}
		if full {
			return 0
		}
	}
	h.dirPos = pos
	return 0
}

// direntRoom is how many bytes of the host's entries are asked for, so that few come that don't fit; it is
// enough for one of any length.
func direntRoom(left int, plus bool) int {
	if plus {
		left /= 4
	}
	return min(max(left, 512), 32<<10)
}

// listed appends the entries in dents, and says whether there was one that didn't fit. pos becomes the offset
// after the last one appended.
func (c *call) listed(dents []byte, room int, plus bool, pos *int64) (full bool) {
	for len(dents) > direntHeader {
		ino := binary.NativeEndian.Uint64(dents)
		next := binary.NativeEndian.Uint64(dents[8:])
		length := int(binary.NativeEndian.Uint16(dents[16:]))
		typ := uint32(dents[18])
		name, _, _ := bytes.Cut(dents[direntHeader:length], []byte{0})
		dents = dents[length:]
		if !c.dirent(room, plus, ino^c.node.inoMask, next, typ, name) {
			return true
		}
		*pos = int64(next)
	}
	return false
}

// dirent appends one entry if there is room.
func (c *call) dirent(room int, plus bool, ino, next uint64, typ uint32, name []byte) bool {
	need := fuse.DirentLen(len(name))
	if plus {
		need += fuse.EntryOutSize
	}
	if len(c.reply.B)+need > room {
		return false
	}
	if plus {
		c.direntPlus(string(name))
	}
	c.reply.Dirent(ino, next, typ, name)
	return true
}

// direntPlus appends what a lookup of name would have answered; what can't be looked up, or is this directory or
// the one above, gets a zero node, which the client takes for no answer.
func (c *call) direntPlus(name string) {
	if name != "." && name != ".." {
		var st unix.Statx_t
		if n, e := c.child(c.node, name, &st); e == 0 {
			c.entry(c.node, n, &st)
			n.put()
			return
		}
	}
	c.reply.Zero(fuse.EntryOutSize)
}

// listShares lists the root. An entry's offset is 2 plus the id of its share, and ids only grow.
func (c *call) listShares(off uint64, room int, plus bool) unix.Errno {
	const dots = 2
	fits := true
	for i := off; i < dots && fits; i++ {
		fits = c.dirent(room, plus, fuse.RootID, i+1, unix.DT_DIR, []byte("..")[:i+1])
	}
	for _, sh := range c.srv.sharesAfter(max(off, dots) - dots) {
		if !fits {
			break
		}
		// The number is not the inode's own; like at any mount point, that one is seen by stat.
		fits = c.dirent(room, plus, fuse.RootID+sh.id, sh.id+dots, sh.typ>>12, []byte(sh.name))
	}
	if !fits && len(c.reply.B) == 0 {
		return unix.EINVAL
	}
	return 0
}
