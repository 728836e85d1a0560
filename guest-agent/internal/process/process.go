package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/huskvm/husk/guest-agent/internal/stage"
	"github.com/huskvm/husk/guest-agent/internal/stream"
	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	"golang.org/x/sys/unix"
)

// Errors that callers tell apart.
var (
	ErrEnded       = errors.New("process already finished")
	ErrNotPrepared = errors.New("process was started already")
	ErrRunning     = errors.New("process is still running")
	ErrNoTerminal  = errors.New("process has no terminal")
)

// Runner makes processes.
type Runner struct {
	Reaper *Reaper
	Dial   stream.Dial
	// DrainTime is how long an exit waits for output that a surviving child may still write.
	DrainTime time.Duration

	// births is held from where a child's ends of pipes and sockets are made until they are closed here. Another child
	// that is born meanwhile would have them too until its execve, and their end would not be seen.
	births sync.Mutex
}

// Options are what a process is made with.
type Options struct {
	Config stage.Config
	Stdio  *agentv1.Stdio
	Cgroup *os.File
	// OtherCgroup, when set, is used if Cgroup can't be entered since it has groups below it.
	OtherCgroup func() (*os.File, error)
	CloneFlags  uintptr
	// Join are the existing namespaces to be born in: all but user and time.
	Join []Namespace
	// User and Time are nil for the agent's own.
	User *UserNamespace
	Time *TimeNamespace
	// Files are the stage's further descriptors, from stage.FirstFD on.
	Files []*os.File
	// Ended is called once, when the process has ended, before anyone learns of it.
	Ended func()
}

// state is how far a process has come. It only grows.
type state int

const (
	prepared state = iota
	started
	ended
)

// Process is one process of a container, from prepared to deleted. All methods may be called at any time and
// concurrently; after Delete only Wait answers as before.
type Process struct {
	PID int

	control *control
	stdio   *stdio
	done    chan struct{} // the exit is known and the output handed over

	mu     sync.Mutex
	state  state
	ran    bool // was let go and executed its program, or exited in its place
	killed uint32
	pidfd  *os.File
	exit   *agentv1.Exit // valid once done is closed
}

// Prepare makes a process up to its execve. On error nothing of it is left.
func (r *Runner) Prepare(ctx context.Context, o Options) (*Process, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.births.Lock()
	stdio, err := openStdio(ctx, r.Dial, o.Stdio, o.User)
	if err != nil {
		r.births.Unlock()
		return nil, err
	}
	child, err := r.spawn(o, stdio.child)
	stdio.closeChild()
	r.births.Unlock()
	if err == nil {
		err = r.raise(ctx, child, o)
	}
	if err != nil {
		cancel()
		<-stdio.dialed
		stdio.close()
		return nil, err
	}
	stopWaiting := context.AfterFunc(ctx, func() { _ = child.control.SetReadDeadline(time.Unix(1, 0)) })
	master, err := child.control.receive()
	stopWaiting()
	if err != nil {
		cancel() // the dials are of no more use
	}
	if derr := <-stdio.dialed; err == nil {
		err = derr
	}
	if master != nil {
		err = errors.Join(err, stdio.openTerminal(master))
	}
	if err != nil {
		r.abandon(child)
		stdio.close()
		return nil, err
	}
	p := &Process{
		PID:     child.pid,
		control: child.control,
		stdio:   stdio,
		done:    make(chan struct{}),
		pidfd:   os.NewFile(uintptr(child.pidfd), "pidfd"),
	}
	stdio.connect()
	go p.supervise(child.ended, o.Ended, r.DrainTime)
	return p, nil
}

// abandon ends a stage that will not become a process.
func (r *Runner) abandon(c *child) {
	_ = unix.PidfdSendSignal(c.pidfd, unix.SIGKILL, nil, 0)
	<-c.ended
	unix.Close(c.pidfd)
	c.control.Close()
}

func (p *Process) supervise(end <-chan Ended, hook func(), drainTime time.Duration) {
	e := <-end
	if hook != nil {
		hook()
	}
	p.stdio.ended()
	p.mu.Lock()
	if p.state == prepared {
		p.control.Close() // else Start reads from it to the end
	}
	p.state = ended
	code := Code(e.Status)
	if p.killed != 0 {
		code = 128 + p.killed
	}
	p.mu.Unlock()

	exit := &agentv1.Exit{Status: &code, At: e.At.UnixNano()}
	timer := time.NewTimer(drainTime)
	defer timer.Stop()
	select {
	case <-p.stdio.drained():
	case <-timer.C:
		exit.OutputCut = true
	}
	p.mu.Lock()
	p.exit = exit
	p.mu.Unlock()
	close(p.done)
}

// Start lets the process execute its program, and returns when it has, or could not.
func (p *Process) Start() error {
	p.mu.Lock()
	if p.state != prepared {
		defer p.mu.Unlock()
		if p.state == ended {
			return ErrEnded
		}
		return ErrNotPrepared
	}
	p.state, p.ran = started, true
	p.mu.Unlock()

	defer p.control.Close()
	if err := p.control.letGo(); err != nil {
		return fmt.Errorf("start process: %w", ErrEnded)
	}
	_, err := p.control.receive()
	if errors.Is(err, errStageGone) || err == nil {
		return nil
	}
	<-p.done // the stage has said why it ends, and does
	p.mu.Lock()
	p.ran = false
	p.mu.Unlock()
	return err
}

// Wait answers when the process has ended and its output was handed over; again and again.
func (p *Process) Wait(ctx context.Context) (*agentv1.Exit, error) {
	select {
	case <-p.done:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.exit, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Running tells whether the process has not ended yet.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state != ended
}

// exitTime is how long a process may take from where nobody can join it any more to its end.
const exitTime = time.Second

// Exiting tells whether err, of joining this process, is because of its end, and waits for that. Of these answers
// ENOMEM is the one to a fork in a PID namespace whose init has begun to exit (pid_namespaces(7)).
func (p *Process) Exiting(err error) bool {
	if !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENOMEM) && !errors.Is(err, errStageGone) {
		return !p.Running()
	}
	select {
	case <-p.done:
		return true
	case <-time.After(exitTime):
		return !p.Running() // else the joining process has ended by itself
	}
}

// Signal sends a signal. To a process that was not started yet, one that would end it ends it.
func (p *Process) Signal(sig unix.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch p.state {
	case ended:
		return ErrEnded
	case prepared:
		// The stage is a Go program, as PID 1 of its namespace at that: it would not die of what the
		// program would die of.
		if !fatal(sig) {
			return nil
		}
		p.killed = uint32(sig)
		sig = unix.SIGKILL
	}
	err := unix.PidfdSendSignal(int(p.pidfd.Fd()), sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return ErrEnded
	}
	return err
}

// fatal tells whether a signal's default is to end the process.
func fatal(sig unix.Signal) bool {
	switch sig {
	case 0, unix.SIGCHLD, unix.SIGCONT, unix.SIGURG, unix.SIGWINCH,
		unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
		return false
	}
	return true
}

// Resize sets the terminal's size.
func (p *Process) Resize(width, height uint16) error {
	if !p.Running() {
		return ErrEnded
	}
	return p.stdio.resize(width, height)
}

// PIDFD is a descriptor for the process, for others to join its namespaces; nil when it has ended.
func (p *Process) PIDFD() *os.File {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == ended {
		return nil
	}
	return p.pidfd
}

// Delete frees what the process holds. A prepared one is killed first; a running one is an error. The exit is
// nil when the program never ran.
func (p *Process) Delete() (*agentv1.Exit, error) {
	if err := p.killPrepared(); err != nil {
		return nil, err
	}
	<-p.done
	p.stdio.close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pidfd.Close()
	if !p.ran {
		return nil, nil
	}
	return p.exit, nil
}

func (p *Process) killPrepared() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch p.state {
	case started:
		return ErrRunning
	case prepared:
		p.killed = uint32(unix.SIGKILL)
		err := unix.PidfdSendSignal(int(p.pidfd.Fd()), unix.SIGKILL, nil, 0)
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill prepared process: %w", err)
		}
	}
	return nil
}
