// Package sandbox is one VM and the containers in it: plan, boot, serve, stop. It is the shim's only bridge to
// the VMM.
//
// A sandbox begins empty. The first container's Create boots the VM; the end of that container ends the VM, and
// whatever else runs in it. A Create that fails leaves nothing behind and the sandbox as it was. After the VM's
// end the records stay, until Delete and Close.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	vmmv1 "github.com/huskvm/husk/proto/husk/vmm/v1"
	"github.com/huskvm/husk/shim/internal/bundle"
	"github.com/huskvm/husk/shim/internal/config"
	"github.com/huskvm/husk/shim/internal/container"
	"github.com/huskvm/husk/shim/internal/mounts"
	"github.com/huskvm/husk/shim/internal/rundir"
	"github.com/huskvm/husk/vmm/marks"
)

// phase is a sandbox's own state.
type phase int

const (
	empty phase = iota // no VM yet, or a failed one taken away
	booting
	running
	ended
)

// Params is what a sandbox is made from.
type Params struct {
	Dir       rundir.Dir // exists, and is locked by this process
	Namespace string
	ID        string
	Unowned   bool // see rundir.State
	Sink      container.Sink
	Config    config.Source // to which a container's options are added
	// Begun is when the engine called for the shim, on CLOCK_MONOTONIC in nanoseconds; 0 is unknown.
	Begun uint64
	// Engine is where the engine's paths lead.
	Engine mounts.Engine
	// FirstTime is how long the sandbox waits for its first container, and IdleTime how long it may be without one
	// afterwards, before Idle is called.
	FirstTime time.Duration
	IdleTime  time.Duration
	Idle      func()
	// Launch starts the VMM; nil is the real one.
	Launch Launch
}

// settleTime is after a start, when the shim gives its memory back to the host.
const settleTime = time.Second

// Sandbox is safe for concurrent use.
type Sandbox struct {
	Params
	idle  *time.Timer
	marks marks.List

	life     context.Context // ends when Close begins
	endLife  context.CancelFunc
	creating sync.WaitGroup // creates that are under way

	mu         sync.Mutex
	phase      phase
	pod        *Pod // that the Sandbox API asked for
	vm         *vm
	config     *config.Config
	size       bundle.Size
	gone       chan struct{} // closed when the VM is gone; made by the boot
	containers map[string]*member
	state      rundir.State
	vmmMarks   []*vmmv1.Mark
	guestMarks []marks.Mark // on the host's clock
	timelined  bool
}

// New makes an empty sandbox.
func New(p Params) *Sandbox {
	if p.Launch == nil {
		p.Launch = launch
	}
	s := &Sandbox{Params: p, containers: make(map[string]*member)}
	s.life, s.endLife = context.WithCancel(context.Background())
	s.state = rundir.State{Namespace: p.Namespace, ID: p.ID, Unowned: p.Unowned}
	if self, err := rundir.Identify(os.Getpid()); err == nil {
		s.state.Shim = self
	}
	s.save()
	s.marks.Add("shim serving")
	s.idle = time.AfterFunc(p.FirstTime, p.Idle)
	return s
}

// save writes the state; the caller holds mu or nobody else has s yet. A state that cannot be written is no
// reason to fail: everything is found by its name as well.
func (s *Sandbox) save() {
	if err := s.Dir.Save(s.state); err != nil {
		log.L.WithError(err).Warn("save the sandbox's state")
	}
}

// Container finds a container.
func (s *Sandbox) Container(id string) (*container.Container, error) {
	m, err := s.member(id)
	if err != nil {
		return nil, err
	}
	return m.Container, nil
}

func (s *Sandbox) member(id string) (*member, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.containers[id]; m != nil && m.Container != nil {
		return m, nil
	}
	return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
}

// PID is the VMM's, which stands for every process in the VM; 0 before the boot.
func (s *Sandbox) PID() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.vm == nil {
		return 0
	}
	return uint32(s.vm.machine.PID())
}

// Create creates a container, and boots the VM for the first one.
func (s *Sandbox) Create(ctx context.Context, r Request) (err error) {
	spec, err := bundle.Load(r.Bundle)
	if err != nil {
		return err
	}
	first, err := s.admit(r, bundle.Identify(r.ID, spec.Annotations))
	if err != nil {
		return err
	}
	defer s.creating.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	defer func() {
		if err != nil {
			s.dismiss(r.ID, first)
		}
	}()
	if first {
		return s.createFirst(ctx, r, spec)
	}
	return s.createMember(ctx, r, spec)
}

// admit reserves the id, and says whether its container is to boot the VM. The record of it is there from here on:
// before its hooks run, and before its exit can be. Done is due of s.creating.
func (s *Sandbox) admit(r Request, identity bundle.Identity) (first bool, err error) {
	id := r.ID
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[id] != nil {
		return false, fmt.Errorf("container %s: %w", id, errdefs.ErrAlreadyExists)
	}
	switch s.phase {
	case empty:
		if identity.Sandbox != s.ID || identity.Kind == bundle.Member {
			return false, fmt.Errorf("container %s belongs to sandbox %s, which is not running: %w",
				id, identity.Sandbox, errdefs.ErrFailedPrecondition)
		}
		s.phase = booting
		first = true
	case running:
		if identity.Kind != bundle.Member || identity.Sandbox != s.ID {
			return false, fmt.Errorf("container %s does not belong to sandbox %s: %w", id, s.ID, errdefs.ErrFailedPrecondition)
		}
	case booting:
		return false, fmt.Errorf("sandbox %s is still booting: %w", s.ID, errdefs.ErrFailedPrecondition)
	case ended:
		return false, fmt.Errorf("sandbox %s has ended: %w", s.ID, errdefs.ErrFailedPrecondition)
	}
	s.creating.Add(1)
	s.containers[id] = &member{}
	s.state.Containers = append(s.state.Containers, rundir.Container{ID: id, Bundle: r.Bundle})
	s.save()
	s.idle.Stop()
	return first, nil
}

// dismiss undoes admit.
func (s *Sandbox) dismiss(id string, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.containers, id)
	s.forget(id)
	s.save()
	if first {
		s.vm = nil
		if s.phase == booting {
			s.phase = empty
		}
	}
	s.rest()
}

// rest starts the idle timer when there is no container; the caller holds mu.
func (s *Sandbox) rest() {
	if len(s.containers) == 0 {
		s.idle.Reset(s.IdleTime)
	}
}

// Start starts a container's first process, or an exec's.
func (s *Sandbox) Start(ctx context.Context, id, execID string) error {
	m, err := s.member(id)
	if err != nil {
		return err
	}
	p, err := m.Process(execID)
	if err != nil {
		return err
	}
	// A client that goes away must not leave a start half done.
	ctx = context.WithoutCancel(ctx)
	if execID == "" && m.first {
		if err := s.vm.connectLate(ctx); err != nil {
			return err
		}
	}
	if execID == "" {
		s.vm.relayNames(ctx, m.spec)
	}
	if err := p.Start(ctx); err != nil {
		return err
	}
	if execID == "" {
		if err := m.hooks.PostStart(ctx, int(m.PID)); err != nil {
			return errors.Join(err, p.Kill(ctx, uint32(unix.SIGKILL), true))
		}
		s.keepTimeline()
		// What the boot used is not needed again while the container runs.
		time.AfterFunc(settleTime, debug.FreeOSMemory)
	}
	return nil
}

// Pause freezes a container; with all of a sandbox's paused its vCPUs stop as well.
func (s *Sandbox) Pause(ctx context.Context, id string) error {
	c, err := s.Container(id)
	if err != nil {
		return err
	}
	if err := c.Pause(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	v := s.vm
	for _, m := range s.containers {
		if m.Container == nil || m.State() == container.Running || m.State() == container.Created {
			v = nil
		}
	}
	s.mu.Unlock()
	if v == nil {
		return nil
	}
	return v.sleep(ctx)
}

// Resume undoes Pause, and sets the guest's clock right.
func (s *Sandbox) Resume(ctx context.Context, id string) error {
	c, err := s.Container(id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	v := s.vm
	s.mu.Unlock()
	if c.State() == container.Paused {
		if err := v.syncClock(ctx); err != nil {
			log.G(ctx).WithError(err).Warn("set the guest's clock")
		}
	}
	return c.Resume(ctx)
}

// Delete deletes a container that has exited or was never started. With the first one the VM is gone.
func (s *Sandbox) Delete(ctx context.Context, id string) (container.Exit, error) {
	m, err := s.member(id)
	if err != nil {
		return container.Exit{}, err
	}
	exit, err := m.Delete(ctx)
	if err != nil {
		return exit, err
	}
	if m.first {
		select {
		case <-s.gone:
		case <-ctx.Done():
			return exit, fmt.Errorf("wait for the VM's end: %w", ctx.Err())
		}
	}
	if err := s.release(context.WithoutCancel(ctx), m); err != nil {
		log.G(ctx).WithError(err).WithField("id", id).Warn("release what the container used")
	}
	s.mu.Lock()
	delete(s.containers, id)
	s.forget(id)
	s.save()
	s.rest()
	s.mu.Unlock()
	m.Told()
	return exit, nil
}

// forget drops a container from the state; the caller holds mu.
func (s *Sandbox) forget(id string) {
	for i, c := range s.state.Containers {
		if c.ID == id {
			s.state.Containers = append(s.state.Containers[:i:i], s.state.Containers[i+1:]...)
			return
		}
	}
}

// Console is the end of the guest's console.
func (s *Sandbox) Console(ctx context.Context) ([]byte, error) {
	s.mu.Lock()
	v := s.vm
	s.mu.Unlock()
	if v == nil {
		return nil, fmt.Errorf("sandbox %s has no VM: %w", s.ID, errdefs.ErrFailedPrecondition)
	}
	select {
	case <-v.ctx.Done():
		return v.machine.Status().Guest.GetConsoleTail(), nil
	default:
	}
	info, err := v.machine.API().Info(ctx, &vmmv1.InfoRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask the VMM for the console: %w", err)
	}
	return info.ConsoleTail, nil
}

// Containers counts them, those being created included.
func (s *Sandbox) Containers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.containers)
}

// Close ends the VM, if there is one, and removes everything that is left of the sandbox on the host. Creates that are under
// way fail. The exits of containers that it ends are told first. Nothing may be called after it.
func (s *Sandbox) Close() error {
	s.mu.Lock()
	s.idle.Stop()
	s.phase = ended
	s.mu.Unlock()
	s.endLife()
	s.creating.Wait()
	s.mu.Lock()
	v := s.vm
	var members []*member
	for _, m := range s.containers {
		if m.Container != nil {
			members = append(members, m)
		}
	}
	s.mu.Unlock()
	var errs []error
	if v != nil {
		errs = append(errs, v.stop(false))
		ctx, cancel := context.WithTimeout(context.Background(), 2*goneTime)
		defer cancel()
		for _, m := range members {
			if first, err := m.Process(""); err == nil {
				_, _ = first.Wait(ctx)
			}
			errs = append(errs, s.release(ctx, m))
		}
	}
	errs = append(errs, s.Dir.Remove())
	return errors.Join(errs...)
}
