package passthrough

import (
	"strconv"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// share is one exported tree. Its inodes are not those of another share, even if the files are the same: what
// may be written by one name must not become writable by another.
type share struct {
	readOnly bool
}

// key is what makes two lookups one inode, so that hard links are seen as such.
type key struct {
	share *share
	dev   uint64
	ino   uint64
}

// inode is a file of the host that the guest knows. fd, key, id and kind never change; the counts belong to FS.mu.
type inode struct {
	key
	id   uint64
	fd   int    // O_PATH
	kind uint32 // S_IFMT bits

	refs    int    // one for lookups, one for being a share's root, one for each request in work
	lookups uint64 // the kernel's count
}

// insert adds an inode with one reference; FS.mu is held.
func (fs *FS) insert(k key, fd int, mode uint32) *inode {
	i := &inode{key: k, id: fs.next, fd: fd, kind: mode & unix.S_IFMT, refs: 1}
	fs.next++
	fs.inodes[i.id] = i
	fs.keys[k] = i
	return i
}

// unref drops one reference; FS.mu is held.
func (fs *FS) unref(i *inode) {
	if i.refs--; i.refs > 0 {
		return
	}
	delete(fs.inodes, i.id)
	delete(fs.keys, i.key)
	_ = unix.Close(i.fd)
}

// get returns an inode for the time of a request; put gives it back. The root of all is none.
func (fs *FS) get(id uint64) (*inode, fuse.Status) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	i, ok := fs.inodes[id]
	if !ok {
		if id == fuse.FUSE_ROOT_ID {
			return nil, fuse.EPERM
		}
		return nil, fuse.Status(unix.ESTALE)
	}
	i.refs++
	return i, fuse.OK
}

func (fs *FS) put(i *inode) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.unref(i)
}

// directory is get for a directory in which name is to be changed.
func (fs *FS) directory(id uint64, name string) (*inode, fuse.Status) {
	if !goodName(name) {
		return nil, fuse.EINVAL
	}
	return fs.writable(id)
}

// writable is get for an inode that is to be changed.
func (fs *FS) writable(id uint64) (*inode, fuse.Status) {
	i, code := fs.get(id)
	if code == fuse.OK && i.share.readOnly {
		fs.put(i)
		return nil, fuse.EROFS
	}
	return i, code
}

// adopt makes fd, an O_PATH descriptor that is ours, the inode the guest is told of: a new one, or one it knows.
func (fs *FS) adopt(sh *share, fd int, out *fuse.EntryOut) fuse.Status {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return status(err)
	}
	k := key{share: sh, dev: st.Dev, ino: st.Ino}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	i, known := fs.keys[k]
	switch {
	case known:
		_ = unix.Close(fd)
	case len(fs.inodes) >= maxInodes:
		_ = unix.Close(fd)
		return fuse.Status(unix.ENFILE)
	default:
		i = fs.insert(k, fd, st.Mode)
		i.refs = 0
	}
	if i.lookups == 0 {
		i.refs++
	}
	i.lookups++
	out.NodeId = i.id
	out.SetEntryTimeout(timeout)
	out.SetAttrTimeout(timeout)
	fs.fill(&out.Attr, &st)
	return fuse.OK
}

// Forget implements fuse.RawFileSystem. A guest that forgets more than it looked up harms itself alone.
func (fs *FS) Forget(id, n uint64) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	i, ok := fs.inodes[id]
	if !ok || i.lookups == 0 {
		return
	}
	if i.lookups -= min(n, i.lookups); i.lookups == 0 {
		fs.unref(i)
	}
}

// child opens what name is in a directory; the descriptor is O_PATH and never that of a link's target.
func child(dir *inode, name string) (int, error) {
	return unix.Openat(dir.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// reopen opens the file behind an O_PATH descriptor for use.
func (fs *FS) reopen(fd, flags int) (int, error) {
	return unix.Openat(int(fs.proc.Fd()), strconv.Itoa(fd), flags|unix.O_CLOEXEC, 0)
}

// open is reopen for an inode that can be opened without side effects.
func (fs *FS) open(i *inode, flags int) (int, error) {
	if i.kind != unix.S_IFREG && i.kind != unix.S_IFDIR {
		return -1, unix.EOPNOTSUPP
	}
	return fs.reopen(i.fd, flags)
}
