package passthrough

import (
	"strconv"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// openFlags are those of open(2) that mean something on the host. O_DIRECT does not: the guest has a page cache.
const openFlags = unix.O_ACCMODE | unix.O_APPEND | unix.O_TRUNC | unix.O_SYNC | unix.O_DSYNC

func writes(flags uint32) bool {
	return flags&unix.O_ACCMODE != unix.O_RDONLY || flags&unix.O_TRUNC != 0
}

// Open implements fuse.RawFileSystem. Only regular files come here: the rest is the guest kernel's.
func (fs *FS) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	i, code := fs.get(in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.put(i)
	switch {
	case i.kind != unix.S_IFREG:
		return fuse.EINVAL
	case i.share.readOnly && writes(in.Flags):
		return fuse.EROFS
	}
	fd, err := fs.reopen(i.fd, int(in.Flags&openFlags))
	if err != nil {
		return status(err)
	}
	out.Fh = fs.addHandle(&handle{share: i.share, fd: fd})
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE // the kernel drops it when size or time change
	return fuse.OK
}

// Create implements fuse.RawFileSystem.
func (fs *FS) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	dir, code := fs.directory(in.NodeId, name)
	if code != fuse.OK {
		return code
	}
	defer fs.put(dir)
	flags := int(in.Flags&openFlags) | unix.O_CLOEXEC
	fd, err := unix.Openat(dir.fd, name, flags|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, in.Mode&0o7777)
	switch {
	case err == nil:
		err = fs.give(fd, dir, &in.InHeader, in.Mode)
	case err == unix.EEXIST && in.Flags&unix.O_EXCL == 0:
		fd, err = fs.openExisting(dir, name, flags)
	}
	if err != nil {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		return status(err)
	}
	return fs.adoptOpen(dir, fd, out)
}

// openExisting opens a regular file that somebody else has just created.
func (fs *FS) openExisting(dir *inode, name string, flags int) (int, error) {
	path, err := child(dir, name)
	if err != nil {
		return -1, err
	}
	defer unix.Close(path)
	var st unix.Stat_t
	if err := unix.Fstat(path, &st); err != nil {
		return -1, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return -1, unix.ESTALE // the guest looks again, and sees what it is
	}
	return fs.reopen(path, flags)
}

// Tmpfile implements fuse.RawFileSystem.
func (fs *FS) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	dir, code := fs.writable(in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.put(dir)
	flags := int(in.Flags&openFlags&^unix.O_TRUNC) | int(in.Flags&unix.O_EXCL) | unix.O_TMPFILE | unix.O_CLOEXEC
	fd, err := unix.Openat(int(fs.proc.Fd()), strconv.Itoa(dir.fd), flags, in.Mode&0o7777)
	if err != nil {
		return status(err)
	}
	if err := fs.give(fd, dir, &in.InHeader, in.Mode); err != nil {
		_ = unix.Close(fd)
		return status(err)
	}
	return fs.adoptOpen(dir, fd, out)
}

// adoptOpen answers with the inode and the handle of fd, which is open.
func (fs *FS) adoptOpen(dir *inode, fd int, out *fuse.CreateOut) fuse.Status {
	path, err := fs.reopen(fd, unix.O_PATH)
	if err != nil {
		_ = unix.Close(fd)
		return status(err)
	}
	if code := fs.adopt(dir.share, path, &out.EntryOut); code != fuse.OK {
		_ = unix.Close(fd)
		return code
	}
	out.Fh = fs.addHandle(&handle{share: dir.share, fd: fd})
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

// Read implements fuse.RawFileSystem: the data goes from the file to the guest when the answer is written.
func (fs *FS) Read(_ <-chan struct{}, in *fuse.ReadIn, _ []byte) (fuse.ReadResult, fuse.Status) {
	h, code := fs.use(in.Fh, false)
	if code != fuse.OK {
		return nil, code
	}
	return &read{handle: h, offset: int64(in.Offset), size: int(in.Size)}, fuse.OK
}

// read is the data of a file, not read yet. Done lets go of the handle.
type read struct {
	*handle
	offset int64
	size   int
}

// Size implements fuse.ReadResult.
func (r *read) Size() int { return r.size }

// Done implements fuse.ReadResult.
func (r *read) Done() { r.done() }

// Bytes implements fuse.ReadResult.
func (r *read) Bytes(buf []byte) ([]byte, fuse.Status) {
	n, code := r.Readv([][]byte{buf[:min(len(buf), r.size)]})
	return buf[:n], code
}

// Readv fills dst, whose length is at most Size.
func (r *read) Readv(dst [][]byte) (int, fuse.Status) {
	done := 0
	for len(dst) > 0 {
		part := dst[:min(len(dst), maxVector)]
		dst = dst[len(part):]
		want := 0
		for _, p := range part {
			want += len(p)
		}
		n, err := unix.Preadv(r.fd, part, r.offset+int64(done))
		if err != nil {
			return 0, status(err)
		}
		if done += n; n < want {
			break
		}
	}
	return done, fuse.OK
}

// maxVector is IOV_MAX.
const maxVector = 1024

// Write implements fuse.RawFileSystem.
func (fs *FS) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	return fs.Writev(cancel, in, [][]byte{data})
}

// Writev implements fuse.RawFileSystem.
func (fs *FS) Writev(_ <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	h, code := fs.use(in.Fh, false)
	if code != fuse.OK {
		return 0, code
	}
	defer h.done()
	done := 0
	for len(data) > 0 {
		part := data[:min(len(data), maxVector)]
		data = data[len(part):]
		want := 0
		for _, p := range part {
			want += len(p)
		}
		n, err := unix.Pwritev(h.fd, part, int64(in.Offset)+int64(done))
		if err != nil && done == 0 {
			return 0, status(err)
		}
		if n > 0 {
			done += n
		}
		if err != nil || n < want {
			break
		}
	}
	return uint32(done), fuse.OK
}

// CopyFileRange implements fuse.RawFileSystem.
func (fs *FS) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	from, code := fs.use(in.FhIn, false)
	if code != fuse.OK {
		return 0, code
	}
	defer from.done()
	to, code := fs.use(in.FhOut, false)
	if code != fuse.OK {
		return 0, code
	}
	defer to.done()
	offIn, offOut := int64(in.OffIn), int64(in.OffOut)
	n, err := unix.CopyFileRange(from.fd, &offIn, to.fd, &offOut, int(min(in.Len, 1<<30)), 0)
	if err != nil {
		return 0, status(err)
	}
	return uint32(n), fuse.OK
}

// Lseek implements fuse.RawFileSystem: SEEK_DATA and SEEK_HOLE.
func (fs *FS) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	h, code := fs.use(in.Fh, false)
	if code != fuse.OK {
		return code
	}
	defer h.done()
	// The position it leaves means nothing: reads and writes name theirs.
	off, err := unix.Seek(h.fd, int64(in.Offset), int(in.Whence))
	if err != nil {
		return status(err)
	}
	out.Offset = uint64(off)
	return fuse.OK
}

// Fallocate implements fuse.RawFileSystem.
func (fs *FS) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	h, code := fs.use(in.Fh, false)
	if code != fuse.OK {
		return code
	}
	defer h.done()
	return status(unix.Fallocate(h.fd, in.Mode, int64(in.Offset), int64(in.Length)))
}

// Flush implements fuse.RawFileSystem: what a close reports is an error of the file system behind.
func (fs *FS) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	h, code := fs.use(in.Fh, false)
	if code != fuse.OK {
		return code
	}
	defer h.done()
	fd, err := unix.FcntlInt(uintptr(h.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return status(err)
	}
	return status(unix.Close(fd))
}

// Fsync implements fuse.RawFileSystem.
func (fs *FS) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return fs.sync(in, false)
}

// FsyncDir implements fuse.RawFileSystem.
func (fs *FS) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return fs.sync(in, true)
}

func (fs *FS) sync(in *fuse.FsyncIn, dir bool) fuse.Status {
	if in.NodeId == fuse.FUSE_ROOT_ID {
		return fuse.OK
	}
	h, code := fs.use(in.Fh, dir)
	if code != fuse.OK {
		return code
	}
	defer h.done()
	if in.FsyncFlags&1 != 0 { // FUSE_FSYNC_FDATASYNC
		return status(unix.Fdatasync(h.fd))
	}
	return status(unix.Fsync(h.fd))
}

// Ioctl implements fuse.RawFileSystem: none reaches the host.
func (fs *FS) Ioctl(<-chan struct{}, *fuse.IoctlIn, []byte, *fuse.IoctlOut, []byte) fuse.Status {
	return fuse.Status(unix.ENOTTY)
}
