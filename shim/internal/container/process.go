package container

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	"github.com/huskvm/husk/shim/internal/stdio"
)

const (
	// drainTime is how long an exit waits for output that the guest has sent and nobody takes.
	drainTime = 30 * time.Second
	// cutTime is the same after the guest has waited that long itself.
	cutTime = 2 * time.Second
)

// unknownStatus is the exit status when the agent has lost the true one.
const unknownStatus = 255

// Process is a container's first, or one that exec added.
type Process struct {
	container *Container
	id        string // of the exec; empty for the first
	streams   stdio.Config
	spec      []byte        // of an exec, for the guest
	done      chan struct{} // closed once it is Stopped and that was told
	abandoned chan struct{} // closed when one that was never started is deleted
	known     chan struct{} // closed when the guest has said how it ended, or has itself

	mu       sync.Mutex
	state    State
	starting chan struct{} // while a start is under way; closed at its end
	exit     Exit
	session  *stdio.Session
	stdinEnd bool   // CloseStdin came
	insisted bool   // the guest is watched after SIGKILL
	width    uint32 // of the terminal; 0 leaves the guest's default
	height   uint32
}

func newProcess(c *Container, id string, streams stdio.Config) *Process {
	return &Process{
		container: c, id: id, streams: streams,
		done: make(chan struct{}), abandoned: make(chan struct{}), known: make(chan struct{}),
	}
}

// ID is the process's name in events: the exec's id, or the container's.
func (p *Process) ID() string {
	if p.id == "" {
		return p.container.ID
	}
	return p.id
}

// State is the process's; of the first one, the container's.
func (p *Process) State() State {
	if p.id == "" {
		return p.container.State()
	}
	return p.ownState()
}

func (p *Process) ownState() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// Exit is the zero value until the process is Stopped.
func (p *Process) Exit() Exit {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exit
}

// Stdio is what containerd asked for.
func (p *Process) Stdio() stdio.Config { return p.streams }

// Wait returns when the process is Stopped; at once when it already is. Of one that is deleted before it was started it
// does not know a status.
func (p *Process) Wait(ctx context.Context) (Exit, error) {
	select {
	case <-p.done:
		return p.Exit(), nil
	default:
	}
	select {
	case <-p.done:
		return p.Exit(), nil
	case <-p.abandoned:
		return Exit{Status: unknownStatus, At: time.Now()}, nil
	case <-ctx.Done():
		return Exit{}, ctx.Err()
	}
}

// settled waits until no start is under way.
func (p *Process) settled(ctx context.Context) error {
	p.mu.Lock()
	starting := p.starting
	p.mu.Unlock()
	if starting == nil {
		return nil
	}
	select {
	case <-starting:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// abandon lets those go who wait for a process that was never started, and is forgotten.
func (p *Process) abandon() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.abandoned:
	default:
		if p.state == Created {
			close(p.abandoned)
		}
	}
}

func (p *Process) guestStdio() *agentv1.Stdio {
	s := p.session
	return &agentv1.Stdio{
		Terminal: p.streams.Terminal,
		Stdin:    s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr,
		Width: p.width, Height: p.height,
	}
}

// Start lets the process execute.
func (p *Process) Start(ctx context.Context) error {
	if p.id != "" {
		return p.startExec(ctx)
	}
	return p.start(ctx, func() error {
		_, err := p.container.Guest.StartProcess(ctx, &agentv1.StartProcessRequest{ContainerId: p.container.ID})
		return err
	})
}

// start runs f as the one start of the process; the process's exit is told only after its start.
func (p *Process) start(ctx context.Context, f func() error) error {
	p.mu.Lock()
	if _, err := judge(start, p.state); err != nil || p.starting != nil {
		p.mu.Unlock()
		if err == nil {
			err = fmt.Errorf("process %s is being started: %w", p.ID(), errdefs.ErrFailedPrecondition)
		}
		return err
	}
	starting := make(chan struct{})
	p.starting = starting
	p.mu.Unlock()

	err := f()

	p.mu.Lock()
	p.starting = nil
	if err == nil && p.state == Created {
		p.state = Running
	}
	width, height := p.width, p.height
	session := p.session
	p.mu.Unlock()
	if err == nil {
		session.Begin()
		p.tellStart()
	}
	close(starting)
	if err == nil && p.streams.Terminal && width > 0 && height > 0 {
		// A size given while the process was being started may have come before its terminal.
		_ = p.guestResize(ctx, width, height)
	}
	if errdefs.IsUnavailable(err) && p.id == "" {
		// The guest's end is the container's. Whoever hears of the one may ask for the other at once, and delete only what
		// has stopped: containerd 1.6's ctr does.
		select {
		case <-p.done:
		case <-ctx.Done():
		}
	}
	return err
}

func (p *Process) tellStart() {
	c := p.container
	if p.id == "" {
		c.Sink.Publish(&events.TaskStart{ContainerID: c.ID, Pid: c.PID})
	} else {
		c.Sink.Publish(&events.TaskExecStarted{ContainerID: c.ID, ExecID: p.id, Pid: c.PID})
	}
}

// startExec creates and starts an exec's process in one go.
func (p *Process) startExec(ctx context.Context) error {
	c := p.container
	if _, err := judge(exec, c.State()); err != nil {
		return err
	}
	c.mu.Lock()
	if c.initExited {
		c.mu.Unlock()
		return fmt.Errorf("container %s has exited: %w", c.ID, errdefs.ErrFailedPrecondition)
	}
	c.active.Add(1)
	c.mu.Unlock()

	created := false
	err := p.start(ctx, func() error {
		session, err := c.Open(ctx, p.streams)
		if err != nil {
			return err
		}
		p.mu.Lock()
		p.session = session
		streams := p.guestStdio()
		if p.stdinEnd {
			session.CloseStdin()
		}
		p.mu.Unlock()
		_, err = c.Guest.ExecProcess(ctx, &agentv1.ExecProcessRequest{
			ContainerId: c.ID, ExecId: p.id, Process: p.spec, Stdio: streams, MissingExecutableIsError: c.MustExist,
		})
		if err == nil {
			created = true
			_, err = c.Guest.StartProcess(ctx, &agentv1.StartProcessRequest{ContainerId: c.ID, ExecId: p.id})
		}
		return err
	})
	if err != nil {
		if created {
			_ = c.deleteInGuest(ctx, p.id, killTime)
		}
		if p.ownState() == Created {
			p.close()
		}
		c.active.Done()
		return err
	}
	go func() {
		p.watch()
		c.active.Done()
	}()
	return nil
}

// watch follows the process to its exit and tells of it: after all its output has been handed over, after its
// start was told, and, for a container's first, after the exits of all others.
func (p *Process) watch() {
	c := p.container
	exit, drain := p.awaitExit()
	close(p.known)
	if p.id == "" {
		c.mu.Lock()
		c.initExited = true
		c.mu.Unlock()
		waitFor(&c.active, execsTime)
	}
	p.mu.Lock()
	session, starting := p.session, p.starting
	p.mu.Unlock()
	if err := session.Wait(drain); err != nil {
		log.L.WithError(err).WithField("id", c.ID).WithField("process", p.ID()).Warn("exit before the end of output")
	}
	if starting != nil {
		<-starting
	}
	p.finish(exit)
	session.Close()
}

// finish makes the process Stopped and tells so; only the first call counts.
func (p *Process) finish(exit Exit) {
	c := p.container
	p.mu.Lock()
	if p.state == Stopped {
		p.mu.Unlock()
		return
	}
	p.state = Stopped
	p.exit = exit
	p.mu.Unlock()
	if p.id == "" {
		c.Exited(exit)
	}
	c.Sink.Publish(&events.TaskExit{
		ContainerID: c.ID, ID: p.ID(), Pid: c.PID, ExitStatus: exit.Status, ExitedAt: timestamppb.New(exit.At),
	})
	close(p.done)
	if p.id == "" {
		c.Ended()
	}
}

// awaitExit waits for the exit, and says how long its output may still take.
func (p *Process) awaitExit() (Exit, time.Duration) {
	c := p.container
	r, err := c.Guest.WaitProcess(context.Background(), &agentv1.WaitProcessRequest{ContainerId: c.ID, ExecId: p.id})
	if err != nil {
		return Exit{Status: c.Guest.Outcome(err), At: time.Now()}, cutTime
	}
	if p.id == "" {
		c.mu.Lock()
		c.last = r.GetStats()
		c.mu.Unlock()
	}
	exit, drain := Exit{Status: unknownStatus, At: time.Now()}, drainTime
	if e := r.GetExit(); e != nil {
		if e.Status != nil {
			exit.Status = *e.Status
		}
		if e.At > 0 {
			exit.At = time.Unix(0, e.At)
		}
		if e.OutputCut {
			drain = cutTime
		}
	}
	return exit, drain
}

func waitFor(group *sync.WaitGroup, timeout time.Duration) {
	done := make(chan struct{})
	go func() {
		group.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(timeout):
	}
}

// signalTime is what the guest may take to send a signal before its caller hears that it will be seen to.
const signalTime = 10 * time.Second

// Kill sends a signal to the process, or to all of the container's. SIGKILL ends a container whatever the guest does.
func (p *Process) Kill(ctx context.Context, signal uint32, all bool) error {
	if _, err := judge(kill, p.State()); err != nil {
		return err
	}
	if p.id != "" && p.ownState() == Created {
		return fmt.Errorf("process %s is not started: %w", p.id, errdefs.ErrFailedPrecondition)
	}
	insists := p.id == "" && signal == uint32(unix.SIGKILL)
	request := &agentv1.SignalProcessRequest{ContainerId: p.container.ID, ExecId: p.id, Signal: signal, All: all}
	if !insists {
		_, err := p.container.Guest.SignalProcess(ctx, request)
		return err
	}
	p.insist()
	bound, cancel := context.WithTimeout(ctx, signalTime)
	defer cancel()
	_, err := p.container.Guest.SignalProcess(bound, request)
	if err != nil && bound.Err() != nil && ctx.Err() == nil {
		log.L.WithError(err).WithField("id", p.container.ID).Warn("the guest does not answer to SIGKILL")
		return nil
	}
	return err
}

// insist sees to it that SIGKILL is heeded.
func (p *Process) insist() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.insisted {
		return
	}
	p.insisted = true
	go func() {
		p.container.Guest.Insist(p.container.ID, p.known)
		p.mu.Lock()
		p.insisted = false
		p.mu.Unlock()
	}()
}

// Resize sets the size of the process's terminal; before the start it is remembered.
func (p *Process) Resize(ctx context.Context, width, height uint32) error {
	if ok, err := judge(resize, p.State()); !ok {
		return err
	}
	p.mu.Lock()
	p.width, p.height = width, height
	state := p.state
	p.mu.Unlock()
	if !p.streams.Terminal {
		return nil
	}
	err := p.guestResize(ctx, width, height)
	if state == Created {
		return nil // an exec's terminal does not exist yet, and the start sets the size again
	}
	return err
}

func (p *Process) guestResize(ctx context.Context, width, height uint32) error {
	_, err := p.container.Guest.ResizePty(ctx, &agentv1.ResizePtyRequest{
		ContainerId: p.container.ID, ExecId: p.id, Width: width, Height: height,
	})
	return err
}

// CloseStdin says that no client will write any more. What was written still arrives.
func (p *Process) CloseStdin(ctx context.Context) error {
	if ok, err := judge(closeIO, p.State()); !ok {
		return err
	}
	p.mu.Lock()
	p.stdinEnd = true
	session := p.session
	p.mu.Unlock()
	if session == nil {
		return nil // an exec that is not started; its stdin ends when it is
	}
	session.CloseStdin()
	_, err := p.container.Guest.CloseStdin(ctx, &agentv1.CloseStdinRequest{ContainerId: p.container.ID, ExecId: p.id})
	if errdefs.IsNotFound(err) {
		return nil // it has just exited
	}
	return err
}

// close ends the process's streams.
func (p *Process) close() {
	p.mu.Lock()
	session := p.session
	p.mu.Unlock()
	if session != nil {
		session.Close()
	}
}
