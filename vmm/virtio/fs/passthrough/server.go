// Package passthrough serves directories and files of the host over FUSE to a client that is not trusted.
//
// The client sees a read-only root directory whose entries are the shares; each share is a directory tree or
// exactly one file. vmm/virtio/fs carries the requests of a guest here.
//
// What keeps a client in its shares:
//   - Every inode it knows is an O_PATH descriptor of ours. A name is only ever resolved as a single component
//     below one of them, with O_NOFOLLOW; "", ".", ".." and names with '/' are refused. No symbolic link is
//     followed and no path is put together, so there is no race to be won with rename or symlink.
//   - An inode is opened for I/O through /proc/self/fd, by a descriptor of that directory taken in New, and only
//     if it is a regular file or a directory. Devices, fifos and sockets of the host are never opened: the
//     client's kernel has its own.
//   - No device node is made, except overlayfs' whiteout (0/0), which opens nothing.
//   - A request is copied before it is looked at. Data of READ and WRITE is not looked at: it moves directly
//     between the client's memory and the file.
//
// Who may do what is decided by the client's kernel (default_permissions), by mode bits and POSIX ACLs; the
// server acts with the rights of its process, so a share must be all the client's to use, or read-only. Hence nothing
// is opened, or given to a user of the client's, that its kernel has not seen and agreed to: CREATE opens only what
// it has made, and what is made by name is looked at again before it changes its owner.
//
// Not offered: flock and POSIX locks (the client's kernel keeps them itself, right as long as nobody else locks
// the same files), writeback caching (changes by the host must be seen), DAX, ioctl.
package passthrough

import (
	"errors"
	"fmt"
	"os"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultValidity is how long a client may use names and attributes without asking again, when a share's
// Options say nothing: changes by the host are seen within it.
const DefaultValidity = time.Second

// Options of one share.
type Options struct {
	ReadOnly bool
	// Validity is how long a client may use names (also of what does not exist) and attributes without asking
	// again. Long is right for a tree that nobody else changes, such as a container's root; 0 is DefaultValidity;
	// negative is none at all.
	Validity time.Duration
	// Exclusive says that nobody but the client changes the files, so their data may stay cached over an open.
	Exclusive bool
	// Inline says that the share is no submount: outside of these only, Linux up to 6.12 can map ids, and has ACLs. The
	// share's device number is that of the file system which all shares are in.
	Inline bool
	// Root says that the share is a container's root directory. It is no submount, since Linux has ACLs outside of
	// submounts only, and keeps its inode numbers, which programs of 32 bits could not read otherwise. Two roots have the
	// same device number then, but nobody sees both.
	Root bool
}

// Errors of AddShare and RemoveShare.
var (
	ErrExists  = errors.New("share exists")
	ErrUnknown = errors.New("no such share")
)

// Server is one file system. Handle may be called concurrently, and AddShare and RemoveShare at any time.
type Server struct {
	proc     *procDir
	uid, gid uint32 // whose everything is that the process makes
	limit    int    // of descriptors

	mu     sync.Mutex
	shares map[string]*share
	nextID uint64

	session atomic.Pointer[session] // nil until INIT
	crowded chan struct{}
	calls   sync.Pool
}

// New returns a server without shares. The process must still see /proc. Its umask becomes 0: modes come from
// the client, to the letter. RLIMIT_NOFILE should be as high as it can be, since a client's cached inodes are a
// descriptor each; a client that wants more, and does not forget others, gets ENFILE (see Crowded).
func New() (*Server, error) {
	proc, err := openProcDir()
	if err != nil {
		return nil, err
	}
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		_ = proc.Close()
		return nil, fmt.Errorf("read RLIMIT_NOFILE: %w", err)
	}
	unix.Umask(0)
	s := &Server{
		proc: proc, uid: uint32(os.Geteuid()), gid: uint32(os.Getegid()),
		limit: descriptorLimit(lim.Cur), shares: map[string]*share{}, crowded: make(chan struct{}, 1),
	}
	s.calls.New = func() any { return &call{srv: s} }
	return s, nil
}

// descriptorLimit leaves some descriptors for the rest of the process, and bounds what a client can make us hold.
func descriptorLimit(rlimit uint64) int {
	const most = 1 << 20
	return int(min(max(rlimit/2, rlimit-min(rlimit, 256)), most))
}

// AddShare makes dir, a directory or one file, appear as name in the root. dir is the server's from now on, also
// when there is an error.
func (s *Server) AddShare(name string, dir *os.File, opt Options) error {
	sh, err := s.newShare(name, dir, opt)
	if err != nil {
		return fmt.Errorf("add share %q: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shares[name] != nil {
		_ = unix.Close(sh.fd)
		return fmt.Errorf("add share %q: %w", name, ErrExists)
	}
	s.nextID++
	sh.id = s.nextID
	s.shares[name] = sh
	return nil
}

// RemoveShare takes a share away. What the client still holds of it is stale from now on. When RemoveShare
// returns no descriptor of it is open, so what was shared can be unmounted.
func (s *Server) RemoveShare(name string) error {
	s.mu.Lock()
	sh := s.shares[name]
	delete(s.shares, name)
	s.mu.Unlock()
	if sh == nil {
		return fmt.Errorf("remove share %q: %w", name, ErrUnknown)
	}
	sh.remove(s.session.Load())
	return nil
}

// Reset forgets the client: its inodes and open files are closed. The next client begins with INIT.
func (s *Server) Reset() { s.begin(nil) }

// Close is Reset, and the end of all shares. No request may be in progress.
func (s *Server) Close() error {
	s.Reset()
	for _, sh := range s.sharesAfter(0) {
		_ = s.RemoveShare(sh.name)
	}
	return s.proc.Close()
}

// begin replaces the session; the former one's descriptors are closed as soon as nothing uses them.
func (s *Server) begin(next *session) {
	if old := s.session.Swap(next); old != nil {
		old.drop(nil)
	}
}

// lookupShare returns a new descriptor of a share's root, counted in the share.
func (s *Server) lookupShare(name string) (*share, int, unix.Errno) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh := s.shares[name]
	if sh == nil {
		return nil, -1, unix.ENOENT
	}
	fd, err := unix.FcntlInt(uintptr(sh.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, -1, errno(err)
	}
	sh.open.Add(1)
	return sh, fd, 0
}

// sharesAfter lists the shares with an id beyond after, by id: the root's directory order.
func (s *Server) sharesAfter(after uint64) []*share {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*share
	for _, sh := range s.shares {
		if sh.id > after {
			list = append(list, sh)
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].id < list[j].id })
	return list
}
