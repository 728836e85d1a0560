package passthrough

import (
	"strconv"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// timeout is how long the guest may believe a name or an attribute without asking again: what changes on the host,
// such as a configMap, is seen that soon.
const timeout = time.Second

// fill translates the host's attributes; FS.mu is held. Inode numbers of different host file systems, which the
// guest sees as one, are told apart by their upper bits.
func (fs *FS) fill(a *fuse.Attr, st *unix.Stat_t) {
	index, ok := fs.devices[st.Dev]
	if !ok {
		index = uint64(len(fs.devices))
		fs.devices[st.Dev] = index
	}
	*a = fuse.Attr{
		Ino:       st.Ino ^ index<<48,
		Size:      uint64(st.Size),
		Blocks:    uint64(st.Blocks),
		Atime:     uint64(st.Atim.Sec),
		Mtime:     uint64(st.Mtim.Sec),
		Ctime:     uint64(st.Ctim.Sec),
		Atimensec: uint32(st.Atim.Nsec),
		Mtimensec: uint32(st.Mtim.Nsec),
		Ctimensec: uint32(st.Ctim.Nsec),
		Mode:      st.Mode,
		Nlink:     uint32(st.Nlink),
		Owner:     fuse.Owner{Uid: st.Uid, Gid: st.Gid},
		// The kernel's own encoding of a device number in 32 bits.
		Rdev:    uint32(unix.Minor(st.Rdev)&0xff | unix.Major(st.Rdev)<<8 | (unix.Minor(st.Rdev)&^0xff)<<12),
		Blksize: uint32(st.Blksize),
	}
}

// stat answers the attributes of fd.
func (fs *FS) stat(fd int, out *fuse.AttrOut) fuse.Status {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return status(err)
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.fill(&out.Attr, &st)
	out.SetTimeout(timeout)
	return fuse.OK
}

// GetAttr implements fuse.RawFileSystem.
func (fs *FS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if in.NodeId == fuse.FUSE_ROOT_ID {
		out.Attr = fuse.Attr{Ino: fuse.FUSE_ROOT_ID, Mode: unix.S_IFDIR | 0o555, Nlink: 2}
		out.SetTimeout(timeout)
		return fuse.OK
	}
	i, code := fs.get(in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.put(i)
	return fs.stat(i.fd, out)
}

// SetAttr implements fuse.RawFileSystem.
func (fs *FS) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	i, code := fs.writable(in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.put(i)
	for _, set := range []func(*inode, *fuse.SetAttrIn) error{fs.setOwner, fs.setMode, fs.setSize, fs.setTimes} {
		if err := set(i, in); err != nil {
			return status(err)
		}
	}
	return fs.stat(i.fd, out)
}

// setOwner comes first: it takes set-id bits away, which the same request may set.
func (fs *FS) setOwner(i *inode, in *fuse.SetAttrIn) error {
	uid, setUID := in.GetUID()
	gid, setGID := in.GetGID()
	if !setUID && !setGID {
		return nil
	}
	owner, group := -1, -1
	if setUID {
		owner = int(uid)
	}
	if setGID {
		group = int(gid)
	}
	return unix.Fchownat(i.fd, "", owner, group, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
}

func (fs *FS) setMode(i *inode, in *fuse.SetAttrIn) error {
	mode, ok := in.GetMode()
	if !ok {
		return nil
	}
	return fs.chmod(i.fd, i.kind, mode)
}

func (fs *FS) chmod(fd int, kind, mode uint32) error {
	if kind == unix.S_IFLNK {
		return unix.EOPNOTSUPP
	}
	return unix.Fchmodat(int(fs.proc.Fd()), strconv.Itoa(fd), mode&0o7777, 0)
}

func (fs *FS) setSize(i *inode, in *fuse.SetAttrIn) error {
	size, ok := in.GetSize()
	if !ok {
		return nil
	}
	if i.kind != unix.S_IFREG {
		return unix.EINVAL
	}
	fd, err := fs.open(i, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Ftruncate(fd, int64(size))
}

func (fs *FS) setTimes(i *inode, in *fuse.SetAttrIn) error {
	times := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}
	for n, f := range []struct {
		set, now  uint32
		sec, nsec int64
	}{
		{fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, int64(in.Atime), int64(in.Atimensec)},
		{fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, int64(in.Mtime), int64(in.Mtimensec)},
	} {
		switch {
		case in.Valid&f.now != 0:
			times[n].Nsec = unix.UTIME_NOW
		case in.Valid&f.set != 0:
			times[n] = unix.Timespec{Sec: f.sec, Nsec: f.nsec}
		}
	}
	if times[0].Nsec == unix.UTIME_OMIT && times[1].Nsec == unix.UTIME_OMIT {
		return nil
	}
	if i.kind == unix.S_IFLNK {
		return unix.UtimesNanoAt(i.fd, "", times[:], unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
	}
	return unix.UtimesNanoAt(int(fs.proc.Fd()), strconv.Itoa(i.fd), times[:], 0)
}

// StatFs implements fuse.RawFileSystem.
func (fs *FS) StatFs(_ <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	if in.NodeId == fuse.FUSE_ROOT_ID {
		out.Bsize, out.Frsize, out.NameLen = 4096, 4096, 255
		return fuse.OK
	}
	i, code := fs.get(in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.put(i)
	var st unix.Statfs_t
	if err := unix.Fstatfs(i.fd, &st); err != nil {
		return status(err)
	}
	out.Blocks, out.Bfree, out.Bavail = st.Blocks, st.Bfree, st.Bavail
	out.Files, out.Ffree = st.Files, st.Ffree
	out.Bsize, out.Frsize, out.NameLen = uint32(st.Bsize), uint32(st.Frsize), uint32(st.Namelen)
	return fuse.OK
}
