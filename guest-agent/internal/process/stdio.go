package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/huskvm/husk/guest-agent/internal/stream"
	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	"golang.org/x/sys/unix"
)

// stdio is the agent's side of a process's standard streams. It is made by openStdio, gets the terminal's master
// when there is one, runs from connect on, hears of the process's end by ended, and ends with close.
type stdio struct {
	child [3]*os.File // for the process; closed in the agent once it has them
	local [3]*os.File // our ends of the pipes; nil where there is none
	conns [3]stream.Conn

	mu     sync.Mutex
	closed bool
	master *os.File // of the terminal
	slave  *os.File // the same terminal, until the process has ended

	outputs sync.WaitGroup
	inputs  sync.WaitGroup
	dialed  chan error
}

// openStdio makes the process's ends, and begins to dial the host for ours: the dials run while the process is
// being prepared. The pipes of a process in a user namespace belong to its root.
func openStdio(ctx context.Context, dial stream.Dial, want *agentv1.Stdio, user *UserNamespace) (*stdio, error) {
	ids := [3]string{want.GetStdin(), want.GetStdout(), want.GetStderr()}
	if want.GetTerminal() && ids[2] != "" {
		return nil, errors.New("a terminal has no stderr of its own")
	}
	s := &stdio{dialed: make(chan error, 1)}
	for i, id := range ids {
		var err error
		if id == "" || want.GetTerminal() {
			s.child[i], err = os.OpenFile("/dev/null", os.O_RDWR, 0)
		} else {
			err = s.pipe(i, user)
		}
		if err != nil {
			s.closeChild()
			s.closeLocal()
			return nil, fmt.Errorf("open standard descriptor %d: %w", i, err)
		}
	}
	go func() { s.dialed <- s.dial(ctx, dial, ids) }()
	return s, nil
}

// pipe connects descriptor i. Only our end does not block: the mode belongs to the open file, and programs do
// not expect it of theirs.
func (s *stdio) pipe(i int, user *UserNamespace) error {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	ours, theirs := fds[0], fds[1]
	if i == 0 {
		ours, theirs = theirs, ours
	}
	if err := unix.SetNonblock(ours, true); err != nil {
		unix.Close(ours)
		unix.Close(theirs)
		return err
	}
	s.local[i] = os.NewFile(uintptr(ours), "pipe")
	s.child[i] = os.NewFile(uintptr(theirs), "pipe")
	if user == nil {
		return nil
	}
	uid, gid, err := user.Root()
	if err != nil {
		return err
	}
	return s.child[i].Chown(uid, gid)
}

func (s *stdio) dial(ctx context.Context, dial stream.Dial, ids [3]string) error {
	var wg sync.WaitGroup
	var errs [3]error
	for i, id := range ids {
		if id == "" {
			continue
		}
		wg.Go(func() { s.conns[i], errs[i] = stream.Open(ctx, dial, id) })
	}
	wg.Wait()
	return errors.Join(errs[:]...)
}

// openTerminal takes the master. Its slave is held open until the process has ended: the master's EIO says that nobody
// has the slave open, which somebody may open again as long as the process runs, as systemd does its console.
func (s *stdio) openTerminal(master *os.File) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.master = master
	err := s.control(func(fd uintptr) error {
		slave, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
		if errno != 0 {
			return errno
		}
		s.slave = os.NewFile(slave, "terminal")
		return nil
	})
	if err != nil {
		return fmt.Errorf("open terminal: %w", err)
	}
	return nil
}

// control calls f with the master, which must not come to block.
func (s *stdio) control(f func(fd uintptr) error) error {
	raw, err := s.master.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	err = raw.Control(func(fd uintptr) { ferr = f(fd) })
	return errors.Join(err, ferr)
}

// ended lets the output end when nobody writes any more.
func (s *stdio) ended() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slave != nil {
		s.slave.Close()
		s.slave = nil
	}
}

// connect starts the copying, once the dials are done. It is called before the process runs.
func (s *stdio) connect() {
	if master := s.master; master != nil {
		s.outputs.Go(func() {
			if s.conns[1] != nil {
				stream.Output(s.conns[1], terminal{master})
			} else {
				_ = stream.Copy(io.Discard, terminal{master})
			}
		})
		if s.conns[0] != nil {
			// The end of the input is no end of a terminal: who wants one types it.
			s.inputs.Go(func() { stream.Input(master, s.conns[0]) })
		}
		return
	}
	for i := 1; i <= 2; i++ {
		if s.conns[i] != nil {
			s.outputs.Go(func() {
				stream.Output(s.conns[i], s.local[i])
				s.local[i].Close()
			})
		}
	}
	if s.conns[0] != nil {
		s.inputs.Go(func() {
			stream.Input(s.local[0], s.conns[0])
			s.local[0].Close()
		})
	}
}

// drained is closed when all output was handed over.
func (s *stdio) drained() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		s.outputs.Wait()
		close(done)
	}()
	return done
}

func (s *stdio) resize(width, height uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.master == nil || s.closed {
		return ErrNoTerminal
	}
	return s.control(func(fd uintptr) error {
		return unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height})
	})
}

// close ends all copying and waits for it. The dials must be done.
func (s *stdio) close() {
	s.closeChild()
	s.ended()
	s.mu.Lock()
	s.closed = true
	if s.master != nil {
		s.master.Close()
	}
	s.mu.Unlock()
	s.closeLocal()
	for _, c := range s.conns {
		if c != nil {
			c.Close()
		}
	}
	s.outputs.Wait()
	s.inputs.Wait()
}

func (s *stdio) closeChild() {
	for i, f := range s.child {
		if f != nil {
			f.Close()
			s.child[i] = nil
		}
	}
}

func (s *stdio) closeLocal() {
	for _, f := range s.local {
		if f != nil {
			f.Close()
		}
	}
}

// terminal is a master to read from: EIO is how it says that its last slave was closed.
type terminal struct{ *os.File }

func (t terminal) Read(p []byte) (int, error) {
	n, err := t.File.Read(p)
	if errors.Is(err, unix.EIO) {
		err = io.EOF
	}
	return n, err
}
