// Package container keeps the records of a sandbox's containers and processes: their states, what may be done
// in which, their exits, and the events that tell of them, in containerd's order.
//
// The host's record is the truth that State is answered from; the guest is asked only to act. Every call to the
// guest ends with the VM at the latest, so none here can hang on a dead one.
package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	"github.com/huskvm/husk/shim/internal/stdio"
)

// Guest is the agent of the container's VM. Its calls fail when the VM ends.
type Guest interface {
	agentv1.AgentService
	// Outcome waits until the VM is gone and returns the exit status that this gives its processes. It ends a
	// VM that does not go by itself, as its agent was found to be of no use: cause says how.
	Outcome(cause error) uint32
	// Insist follows a SIGKILL to a container's first process: it ends a VM in which that does not end it. It returns
	// once done is closed, or the VM has ended.
	Insist(containerID string, done <-chan struct{})
}

// Sink takes events, in order, without blocking.
type Sink interface{ Publish(proto.Message) }

// OpenStdio opens the host's ends of a process's streams.
type OpenStdio func(context.Context, stdio.Config) (*stdio.Session, error)

// Params is what a container is created from.
type Params struct {
	ID        string
	Bundle    string
	Rootfs    []*types.Mount // as containerd gave it, for the event
	Spec      []byte         // for the guest
	Storages  []*agentv1.Storage
	Stdio     stdio.Config
	Width     uint32 // of the terminal
	Height    uint32
	Session   *stdio.Session // of Stdio; the container closes it
	PID       uint32         // on the host, to stand for the container's processes
	MustExist bool           // a missing executable is an error
	EndsVM    bool           // the VM ends with it, so that nothing of it can stay in the guest

	Guest  Guest
	Sink   Sink
	Open   OpenStdio
	Exited func(Exit) // called when the exit is known and about to be told
	Ended  func()     // called when it has been told
}

// Container is one container, from its creation in the guest until its deletion.
type Container struct {
	Params
	init *Process

	mu         sync.Mutex
	paused     bool
	initExited bool                   // nothing can be started any more
	oom        bool                   // has been told
	last       *agentv1.StatsResponse // at the exit; nil before, and when the guest could not tell
	execs      map[string]*Process
	active     sync.WaitGroup // execs that are starting or running
}

// Exit is how a process ended. The zero value is of one that never ran.
type Exit struct {
	Status uint32
	At     time.Time
}

// execsTime is how long a container's exit waits for those of its other processes, which end with it. It is
// above what their output may take.
const execsTime = drainTime + 5*time.Second

// Create creates the container in the guest and tells so. On error nothing is left, the session is closed.
func Create(ctx context.Context, p Params) (*Container, error) {
	c := &Container{Params: p, execs: make(map[string]*Process)}
	c.init = newProcess(c, "", p.Stdio)
	c.init.session = p.Session
	c.init.width, c.init.height = p.Width, p.Height
	_, err := p.Guest.CreateContainer(ctx, &agentv1.CreateContainerRequest{
		Id:                       p.ID,
		Spec:                     p.Spec,
		Storages:                 p.Storages,
		Stdio:                    c.init.guestStdio(),
		MissingExecutableIsError: p.MustExist,
	})
	if err != nil {
		p.Session.Close()
		if !p.EndsVM { // who gave up may have been too late for the guest
			err = errors.Join(err, c.deleteInGuest(ctx, "", killTime))
		}
		return nil, err
	}
	p.Sink.Publish(&events.TaskCreate{
		ContainerID: p.ID,
		Bundle:      p.Bundle,
		Rootfs:      p.Rootfs,
		IO: &events.TaskIO{
			Stdin: p.Stdio.Stdin, Stdout: p.Stdio.Stdout, Stderr: p.Stdio.Stderr, Terminal: p.Stdio.Terminal,
		},
		Pid: p.PID,
	})
	go c.init.watch()
	return c, nil
}

// Process finds the process with an exec id; the container's first with an empty one.
func (c *Container) Process(execID string) (*Process, error) {
	if execID == "" {
		return c.init, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.execs[execID]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("process %s of container %s: %w", execID, c.ID, errdefs.ErrNotFound)
}

// Execs lists the ids of the processes that exec has started and that live.
func (c *Container) Execs() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []string
	for id, p := range c.execs {
		if p.State() == Running {
			ids = append(ids, id)
		}
	}
	return ids
}

// State is the container's.
func (c *Container) State() State {
	s := c.init.ownState()
	c.mu.Lock()
	defer c.mu.Unlock()
	if s == Running && c.paused {
		return Paused
	}
	return s
}

// Exec adds a process that Start will run.
func (c *Container) Exec(id string, process *specs.Process, streams stdio.Config) error {
	if _, err := judge(exec, c.State()); err != nil {
		return err
	}
	spec, err := json.Marshal(process)
	if err != nil {
		return fmt.Errorf("encode process %s: %w", id, err)
	}
	p := newProcess(c, id, streams)
	p.spec = spec
	if size := process.ConsoleSize; size != nil {
		p.width, p.height = uint32(size.Width), uint32(size.Height)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.execs[id] != nil {
		return fmt.Errorf("process %s of container %s: %w", id, c.ID, errdefs.ErrAlreadyExists)
	}
	c.execs[id] = p
	c.Sink.Publish(&events.TaskExecAdded{ContainerID: c.ID, ExecID: id})
	return nil
}

// Pause freezes the container's processes.
func (c *Container) Pause(ctx context.Context) error {
	if _, err := judge(pause, c.State()); err != nil {
		return err
	}
	if _, err := c.Guest.Pause(ctx, &agentv1.PauseRequest{ContainerId: c.ID}); err != nil {
		return err
	}
	c.setPaused(true)
	c.Sink.Publish(&events.TaskPaused{ContainerID: c.ID})
	return nil
}

// Resume undoes Pause.
func (c *Container) Resume(ctx context.Context) error {
	if _, err := judge(resume, c.State()); err != nil {
		return err
	}
	if _, err := c.Guest.Resume(ctx, &agentv1.ResumeRequest{ContainerId: c.ID}); err != nil {
		return err
	}
	c.setPaused(false)
	c.Sink.Publish(&events.TaskResumed{ContainerID: c.ID})
	return nil
}

func (c *Container) setPaused(paused bool) {
	c.mu.Lock()
	c.paused = paused
	c.mu.Unlock()
}

// Update changes the container's limits in the guest; resources is JSON.
func (c *Container) Update(ctx context.Context, resources []byte) error {
	if _, err := judge(update, c.State()); err != nil {
		return err
	}
	_, err := c.Guest.UpdateContainer(ctx, &agentv1.UpdateContainerRequest{ContainerId: c.ID, Resources: resources})
	return err
}

// Stats asks the guest for the container's numbers. Those of its end are remembered.
func (c *Container) Stats(ctx context.Context) (*agentv1.StatsResponse, error) {
	c.mu.Lock()
	last := c.last
	c.mu.Unlock()
	if last != nil {
		return proto.CloneOf(last), nil
	}
	if _, err := judge(inspect, c.State()); err != nil {
		return nil, err
	}
	return c.Guest.Stats(ctx, &agentv1.StatsRequest{ContainerId: c.ID})
}

// OOM tells that the kernel killed in the container for want of memory; CRI-O looks for the file. Once the container has
// exited, what was told before is not told again.
func (c *Container) OOM() {
	c.mu.Lock()
	again := c.initExited && c.oom
	c.oom = true
	c.mu.Unlock()
	if again {
		return
	}
	if err := os.WriteFile(filepath.Join(c.Bundle, "oom"), nil, 0o600); err != nil {
		log.L.WithError(err).WithField("id", c.ID).Warn("mark container as out of memory")
	}
	c.Sink.Publish(&events.TaskOOM{ContainerID: c.ID})
}

// killTime bounds the wait for a container that was killed because it is deleted before it was started.
const killTime = 10 * time.Second

// Delete forgets a container that has exited, or was never started, in the guest. Told tells of it. On error it is there
// as before.
func (c *Container) Delete(ctx context.Context) (Exit, error) {
	state := c.State()
	if _, err := judge(remove, state); err != nil {
		return Exit{}, err
	}
	if state == Created {
		err := c.init.Kill(ctx, uint32(unix.SIGKILL), true)
		if err != nil && !errdefs.IsNotFound(err) {
			log.L.WithError(err).WithField("id", c.ID).Warn("kill a container that was never started")
		}
		select {
		case <-c.init.done:
		case <-time.After(killTime):
			c.init.finish(Exit{Status: 128 + uint32(unix.SIGKILL), At: time.Now()})
		}
	} else if _, err := c.init.Wait(ctx); err != nil { // until its exit is told
		return Exit{}, err
	}
	if err := c.deleteInGuest(ctx, "", deleteTime); err != nil {
		return Exit{}, err
	}
	c.mu.Lock()
	execs := c.execs
	c.execs = make(map[string]*Process)
	c.mu.Unlock()
	for _, p := range execs {
		p.abandon()
		p.close()
	}
	c.init.close()
	return c.init.Exit(), nil
}

// deleteTime is what the guest may take to write back what a container has changed, and to unmount it.
const deleteTime = time.Minute

// deleteInGuest has the guest forget a process; with an empty id the container. That goes on when the caller gives up: what
// the guest still uses is not to be taken from it.
func (c *Container) deleteInGuest(ctx context.Context, execID string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	_, err := c.Guest.DeleteProcess(ctx, &agentv1.DeleteProcessRequest{ContainerId: c.ID, ExecId: execID})
	if err == nil || c.EndsVM || errdefs.IsNotFound(err) || errdefs.IsUnavailable(err) {
		return nil
	}
	return fmt.Errorf("delete in the guest: %w", err)
}

// Told tells that the container was deleted.
func (c *Container) Told() {
	exit := c.init.Exit()
	c.Sink.Publish(&events.TaskDelete{
		ContainerID: c.ID, Pid: c.PID, ExitStatus: exit.Status, ExitedAt: timestamppb.New(exit.At),
	})
}

// DeleteExec forgets a process that has exited, or was never started.
func (c *Container) DeleteExec(ctx context.Context, id string) (Exit, error) {
	p, err := c.Process(id)
	if err != nil {
		return Exit{}, err
	}
	if err := p.settled(ctx); err != nil {
		return Exit{}, err
	}
	state := p.State()
	if _, err := judge(remove, state); err != nil {
		return Exit{}, err
	}
	if state == Stopped {
		if _, err := p.Wait(ctx); err != nil {
			return Exit{}, err
		}
		if err := c.deleteInGuest(ctx, id, deleteTime); err != nil {
			return Exit{}, err
		}
	}
	c.mu.Lock()
	delete(c.execs, id)
	c.mu.Unlock()
	p.abandon()
	p.close()
	return p.Exit(), nil
}
