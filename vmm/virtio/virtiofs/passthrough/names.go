package passthrough

import (
	"strconv"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Lookup implements fuse.RawFileSystem.
func (fs *FS) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if in.NodeId == fuse.FUSE_ROOT_ID {
		return fs.lookupShare(name, out)
	}
	if !goodName(name) {
		return fuse.EINVAL
	}
	dir, code := fs.get(in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.put(dir)
	return fs.lookup(dir, name, out)
}

func (fs *FS) lookup(dir *inode, name string, out *fuse.EntryOut) fuse.Status {
	fd, err := child(dir, name)
	if err != nil {
		return status(err)
	}
	return fs.adopt(dir.share, fd, out)
}

func (fs *FS) lookupShare(name string, out *fuse.EntryOut) fuse.Status {
	fs.mu.Lock()
	i, ok := fs.shares[name]
	if !ok {
		fs.mu.Unlock()
		return fuse.ENOENT
	}
	i.refs++
	fs.mu.Unlock()
	defer fs.put(i)
	fd, err := unix.FcntlInt(uintptr(i.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return status(err)
	}
	return fs.adopt(i.share, fd, out)
}

// created looks a fresh file up and gives it to the user that asked for it.
func (fs *FS) created(dir *inode, name string, in *fuse.InHeader, mode uint32, out *fuse.EntryOut) fuse.Status {
	fd, err := child(dir, name)
	if err != nil {
		return status(err)
	}
	if err := fs.give(fd, dir, in, mode); err != nil {
		_ = unix.Close(fd)
		return status(err)
	}
	return fs.adopt(dir.share, fd, out)
}

// give makes the user of a request the owner of a fresh file; of a set-group-id directory's file, that
// directory's group. A change of owner takes set-id bits away, so they are set again.
func (fs *FS) give(fd int, dir *inode, in *fuse.InHeader, mode uint32) error {
	var st, parent unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if err := unix.Fstat(dir.fd, &parent); err != nil {
		return err
	}
	gid := in.Gid
	if parent.Mode&unix.S_ISGID != 0 {
		gid = parent.Gid
	}
	if st.Uid == in.Uid && st.Gid == gid {
		return nil
	}
	if err := unix.Fchownat(fd, "", int(in.Uid), int(gid), unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK && mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
		return fs.chmod(fd, st.Mode&unix.S_IFMT, st.Mode)
	}
	return nil
}

// Mkdir implements fuse.RawFileSystem.
func (fs *FS) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	dir, code := fs.directory(in.NodeId, name)
	if code != fuse.OK {
		return code
	}
	defer fs.put(dir)
	if err := unix.Mkdirat(dir.fd, name, in.Mode&0o7777); err != nil {
		return status(err)
	}
	return fs.created(dir, name, &in.InHeader, in.Mode, out)
}

// Mknod implements fuse.RawFileSystem. Of devices there is only the one that is none: an overlay's whiteout.
func (fs *FS) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	switch kind := in.Mode & unix.S_IFMT; {
	case kind == unix.S_IFREG, kind == unix.S_IFIFO, kind == unix.S_IFSOCK:
	case kind == unix.S_IFCHR && in.Rdev == 0:
	default:
		return fuse.EPERM
	}
	dir, code := fs.directory(in.NodeId, name)
	if code != fuse.OK {
		return code
	}
	defer fs.put(dir)
	if err := unix.Mknodat(dir.fd, name, in.Mode&(unix.S_IFMT|0o7777), 0); err != nil {
		return status(err)
	}
	return fs.created(dir, name, &in.InHeader, in.Mode, out)
}

// Symlink implements fuse.RawFileSystem.
func (fs *FS) Symlink(_ <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	dir, code := fs.directory(in.NodeId, name)
	if code != fuse.OK {
		return code
	}
	defer fs.put(dir)
	if err := unix.Symlinkat(target, dir.fd, name); err != nil {
		return status(err)
	}
	return fs.created(dir, name, in, 0, out)
}

// Readlink implements fuse.RawFileSystem.
func (fs *FS) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	i, code := fs.get(in.NodeId)
	if code != fuse.OK {
		return nil, code
	}
	defer fs.put(i)
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(i.fd, "", buf)
	if err != nil {
		return nil, status(err)
	}
	return buf[:n], fuse.OK
}

// Link implements fuse.RawFileSystem. A file does not get a name in another share.
func (fs *FS) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	dir, code := fs.directory(in.NodeId, name)
	if code != fuse.OK {
		return code
	}
	defer fs.put(dir)
	i, code := fs.get(in.Oldnodeid)
	if code != fuse.OK {
		return code
	}
	defer fs.put(i)
	if i.share != dir.share {
		return fuse.EXDEV
	}
	if err := unix.Linkat(int(fs.proc.Fd()), strconv.Itoa(i.fd), dir.fd, name, unix.AT_SYMLINK_FOLLOW); err != nil {
		return status(err)
	}
	return fs.lookup(dir, name, out)
}

// Rename implements fuse.RawFileSystem, with all flags of renameat2(2).
func (fs *FS) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	from, code := fs.directory(in.NodeId, oldName)
	if code != fuse.OK {
		return code
	}
	defer fs.put(from)
	to, code := fs.directory(in.Newdir, newName)
	if code != fuse.OK {
		return code
	}
	defer fs.put(to)
	if from.share != to.share {
		return fuse.EXDEV
	}
	return status(unix.Renameat2(from.fd, oldName, to.fd, newName, uint(in.Flags)))
}

// Unlink implements fuse.RawFileSystem.
func (fs *FS) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return fs.remove(in.NodeId, name, 0)
}

// Rmdir implements fuse.RawFileSystem.
func (fs *FS) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return fs.remove(in.NodeId, name, unix.AT_REMOVEDIR)
}

func (fs *FS) remove(id uint64, name string, flags int) fuse.Status {
	dir, code := fs.directory(id, name)
	if code != fuse.OK {
		return code
	}
	defer fs.put(dir)
	return status(unix.Unlinkat(dir.fd, name, flags))
}
