// Package passthrough is a FUSE file system over directories and files of the host, without a single path.
//
// Everything is an O_PATH descriptor. A name is resolved in one directory, one component at a time, and never
// through a symbolic link, so that no rename or link that the guest or anybody else makes leads out of a share.
// Files are opened through /proc/self/fd, by a descriptor taken when the file system is made: the process
// needs no root directory.
//
// The guest's kernel decides who may do what, since it knows its users; the process acts with its own
// capabilities, and gives what it creates to the user that asked. Only regular files and directories are ever
// opened: devices, fifos and sockets of a share work in the guest, as its own.
//
// Locks (flock, POSIX) are not offered, so the guest's kernel keeps them itself: right for one guest.
package passthrough

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// maxInodes bounds what a guest can make the host keep: each is a descriptor.
const maxInodes = 1 << 20

// FS implements fuse.RawFileSystem.
type FS struct {
	fuse.RawFileSystem // ENOSYS for what is not here
	proc               *os.File

	mu      sync.Mutex
	shares  map[string]*inode // the roots; each is pinned
	inodes  map[uint64]*inode // by node id
	keys    map[key]*inode
	next    uint64 // node id
	devices map[uint64]uint64
	handles map[uint64]*handle
	nextFH  uint64
}

// New returns a file system whose root is empty.
func New() (*FS, error) {
	proc, err := os.OpenFile("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	// The modes of new files come from the guest, whose kernel has applied its own mask.
	unix.Umask(0)
	return &FS{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		proc:          proc,
		shares:        map[string]*inode{},
		inodes:        map[uint64]*inode{},
		keys:          map[key]*inode{},
		next:          fuse.FUSE_ROOT_ID + 1,
		devices:       map[uint64]uint64{},
		handles:       map[uint64]*handle{},
	}, nil
}

// AddShare adds a directory or a file to the root.
func (fs *FS) AddShare(name string, f *os.File, readOnly bool) error {
	if !goodName(name) {
		return errors.Join(fmt.Errorf("share %q: a name is one path component", name), f.Close())
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	_ = f.Close()
	if err != nil {
		return fmt.Errorf("share %s: %w", name, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("share %s: %w", name, err)
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if _, taken := fs.shares[name]; taken {
		_ = unix.Close(fd)
		return fmt.Errorf("share %s is there already", name)
	}
	i := fs.insert(key{share: &share{readOnly: readOnly}, dev: st.Dev, ino: st.Ino}, fd, st.Mode)
	fs.shares[name] = i
	return nil
}

// RemoveShare removes it. What the guest still uses lives on.
func (fs *FS) RemoveShare(name string) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	i, ok := fs.shares[name]
	if !ok {
		return fmt.Errorf("there is no share %s", name)
	}
	delete(fs.shares, name)
	fs.unref(i)
	return nil
}

// ForgetAll drops what the guest has looked up and opened; the shares stay.
func (fs *FS) ForgetAll() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for id, h := range fs.handles {
		delete(fs.handles, id)
		h.close()
	}
	for _, i := range fs.inodes {
		if i.lookups > 0 {
			i.lookups = 0
			fs.unref(i)
		}
	}
}

// Close drops everything.
func (fs *FS) Close() error {
	fs.ForgetAll()
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for name, i := range fs.shares {
		delete(fs.shares, name)
		fs.unref(i)
	}
	return fs.proc.Close()
}

// String implements fuse.RawFileSystem.
func (fs *FS) String() string { return "husk" }

// goodName says whether a name can be resolved in a directory: one component, and neither "." nor "..".
func goodName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= 255 && !strings.ContainsAny(name, "/\x00")
}

// status translates an errno. Out of descriptors is the host's trouble, not the guest's process's.
func status(err error) fuse.Status {
	if errors.Is(err, unix.EMFILE) {
		return fuse.Status(unix.ENFILE)
	}
	return fuse.ToStatus(err)
}
