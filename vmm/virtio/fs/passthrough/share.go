package passthrough

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// share is one entry of the root.
type share struct {
	name      string
	id        uint64
	fd        int // O_PATH; what lookups of the share begin with
	typ       uint32
	readOnly  bool
	exclusive bool
	inline    bool
	root      bool
	validity  time.Duration

	removed atomic.Bool
	open    sync.WaitGroup // nodes and handles in it, each with a descriptor
}

var errKind = errors.New("neither a directory nor a file")

func (s *Server) newShare(name string, dir *os.File, opt Options) (*share, error) {
	defer func() { _ = dir.Close() }()
	if e := checkName(name); e != 0 {
		return nil, e
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil, errKind
	}
	// Once more and as O_PATH, whatever it was opened with.
	fd, e := s.proc.open(int(dir.Fd()), unix.O_PATH)
	if e != 0 {
		return nil, e
	}
	sh := &share{
		name: name, fd: fd, typ: st.Mode & unix.S_IFMT,
		readOnly: opt.ReadOnly, exclusive: opt.Exclusive, inline: opt.Inline, root: opt.Root, validity: max(opt.Validity, 0),
	}
	if opt.Validity == 0 {
		sh.validity = DefaultValidity
	}
	return sh, nil
}

// remove closes everything of the share, and waits for requests that are using it.
func (sh *share) remove(current *session) {
	sh.removed.Store(true)
	if current != nil {
		current.drop(sh)
	}
	_ = unix.Close(sh.fd)
	sh.open.Wait()
}

// checkName holds the rule that everything rests on: a name is one component, and not a way up.
func checkName(name string) unix.Errno {
	switch {
	case name == "" || name == "." || name == "..":
		return unix.EINVAL
	case len(name) > 255:
		return unix.ENAMETOOLONG
	}
	for i := range len(name) {
		if name[i] == '/' || name[i] == 0 {
			return unix.EINVAL
		}
	}
	return 0
}
