package container

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/huskvm/husk/guest-agent/internal/cgroup"
	"github.com/huskvm/husk/guest-agent/internal/process"
	"github.com/huskvm/husk/guest-agent/internal/stage"
	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Errors that callers tell apart.
var (
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("already exists")
	ErrInvalid  = errors.New("invalid")
	ErrPaused   = errors.New("container is paused")
)

// Container is one container, from created to deleted. Its processes are known by their exec ids, its init by
// the empty one. All methods may be called concurrently.
type Container struct {
	ID string

	runner  *process.Runner
	watcher *cgroup.Watcher
	group   *cgroup.Group
	spec    *specs.Spec
	unmount func() error
	disks   map[number]number // of the host's, whose limits are meant for the guest's

	mu        sync.Mutex
	paused    bool
	processes map[string]*process.Process // nil while one is being prepared
}

// create makes the container with its init prepared. On error nothing of it is left.
func create(ctx context.Context, l *List, req *agentv1.CreateContainerRequest) (_ *Container, err error) {
	spec, err := parseSpec(req.GetSpec())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	c := &Container{ID: req.GetId(), runner: l.runner, watcher: l.watcher, spec: spec, processes: map[string]*process.Process{}}
	if fields := ignored(spec); len(fields) > 0 {
		slog.Warn("fields of the specification are ignored", "container", c.ID, "fields", fields)
	}
	if c.unmount, err = mountAll(spec, req.GetStorages()); err != nil {
		return nil, err
	}
	if c.disks, err = standIns(req.GetStorages()); err != nil {
		return nil, errors.Join(err, c.unmount())
	}
	if c.group, err = cgroup.New(c.ID); err != nil {
		return nil, errors.Join(err, c.unmount())
	}
	defer func() {
		if err != nil {
			c.watcher.Remove(c.group)
			err = errors.Join(err, c.group.Delete(), c.unmount())
		}
	}()
	if err = c.limit(); err != nil {
		return nil, err
	}
	if err = c.watcher.Add(c.ID, c.group); err != nil {
		return nil, err
	}
	if err = c.setSysctls(); err != nil {
		return nil, err
	}
	init, err := c.prepareInit(ctx, req, l.initOf)
	if err != nil {
		return nil, err
	}
	c.processes[""] = init
	return c, nil
}

// limit applies the resources of the specification to the new group, and gives it to the container if that is to
// manage it.
func (c *Container) limit() error {
	var devices []specs.LinuxDeviceCgroup
	if l := c.spec.Linux; l != nil && l.Resources != nil {
		if err := c.Update(l.Resources); err != nil {
			return err
		}
		devices = l.Resources.Devices
	}
	if err := c.group.AllowDevices(devices); err != nil {
		return err
	}
	if uid, owned := cgroupOwner(c.spec); owned {
		return c.group.Own(uid)
	}
	return nil
}

// setSysctls sets those that the container can't.
func (c *Container) setSysctls() error {
	if c.spec.Linux == nil {
		return nil
	}
	for key, value := range c.spec.Linux.Sysctl {
		if !stage.IsTheVMs(c.spec.Linux, key) {
			continue
		}
		if err := stage.SetSysctl(key, value); err != nil {
			return err
		}
	}
	return nil
}

func (c *Container) prepareInit(ctx context.Context, req *agentv1.CreateContainerRequest, initOf func(string) (int, error)) (*process.Process, error) {
	place, err := initPlacement(c.spec.Linux, initOf)
	if err != nil {
		return nil, err
	}
	defer place.close()
	src, err := openSources(c.runner, c.spec, place.user)
	if err != nil {
		return nil, err
	}
	defer src.close()
	o := process.Options{
		Config:     c.config(c.spec.Process, req.GetStdio(), req.GetMissingExecutableIsError()),
		Stdio:      req.GetStdio(),
		CloneFlags: place.clone,
		Join:       place.join,
		User:       place.user,
		Time:       place.time,
		Files:      src.files,
		Ended:      c.initEnded,
	}
	o.Config.Spec, o.Config.ID = c.spec, c.ID
	o.Config.Trees, o.Config.RootTree = src.trees, src.root
	if o.Cgroup, err = c.group.Open(); err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	defer o.Cgroup.Close()
	return c.runner.Prepare(ctx, o)
}

func (c *Container) config(p *specs.Process, stdio *agentv1.Stdio, missingIsError bool) stage.Config {
	config := stage.Config{
		Process:        p,
		Cgroup:         c.group.Dir(),
		Terminal:       stdio.GetTerminal(),
		Width:          uint16(min(stdio.GetWidth(), 1<<16-1)),
		Height:         uint16(min(stdio.GetHeight(), 1<<16-1)),
		MissingIsError: missingIsError,
	}
	if box := p.ConsoleSize; box != nil && config.Width == 0 && config.Height == 0 {
		config.Width, config.Height = uint16(min(box.Width, 1<<16-1)), uint16(min(box.Height, 1<<16-1))
	}
	if c.spec.Linux != nil {
		config.Seccomp, config.Personality = c.spec.Linux.Seccomp, c.spec.Linux.Personality
	}
	return config
}

// initEnded ends what the init leaves behind where its pid namespace does not, because it is shared.
func (c *Container) initEnded() {
	if err := c.group.Kill(); err != nil {
		slog.Error("kill what a container's init left", "container", c.ID, "error", err)
	}
	c.watcher.Check(c.group)
}

// Exec prepares a further process.
func (c *Container) Exec(ctx context.Context, req *agentv1.ExecProcessRequest) (_ *process.Process, err error) {
	if req.GetExecId() == "" {
		return nil, fmt.Errorf("%w: the exec id is empty", ErrInvalid)
	}
	spec, err := parseProcess(req.GetProcess())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	init, err := c.reserve(req.GetExecId())
	if err != nil {
		return nil, err
	}
	p, err := c.prepareExec(ctx, init, spec, req)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		delete(c.processes, req.GetExecId())
		return nil, err
	}
	c.processes[req.GetExecId()] = p
	return p, nil
}

// reserve takes an exec id, and answers the init to join.
func (c *Container) reserve(id string) (*process.Process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.processes[id]; ok {
		return nil, fmt.Errorf("process %q: %w", id, ErrExists)
	}
	if c.paused {
		return nil, ErrPaused // the new process would stand still before it is prepared
	}
	c.processes[id] = nil
	return c.processes[""], nil
}

func (c *Container) prepareExec(ctx context.Context, init *process.Process, spec *specs.Process, req *agentv1.ExecProcessRequest) (*process.Process, error) {
	pidfd := init.PIDFD()
	if pidfd == nil {
		return nil, fmt.Errorf("container %q is not running: its init: %w", c.ID, process.ErrEnded)
	}
	inherit(spec, c.spec.Process)
	place, rest := execPlacement(c.spec.Linux, pidfd)
	o := process.Options{
		Config: c.config(spec, req.GetStdio(), req.GetMissingExecutableIsError()),
		Stdio:  req.GetStdio(),
		Join:   place.join,
		User:   place.user,
		Time:   place.time,
		Files:  []*os.File{pidfd},
	}
	o.Config.JoinFD, o.Config.JoinFlags = stage.FirstFD, rest
	// A container that makes groups of its own lives in one of them, and so does what joins it: a process in their
	// parent would keep it from dividing that (cgroup-v2, no internal processes).
	var err error
	if o.Cgroup, err = c.group.OpenOf(init.PID); err != nil {
		o.Cgroup, err = c.group.Open()
	}
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	defer o.Cgroup.Close()
	// It may have moved since.
	o.OtherCgroup = func() (*os.File, error) { return c.group.OpenOf(init.PID) }
	p, err := c.runner.Prepare(ctx, o)
	if err != nil && init.Exiting(err) {
		return nil, fmt.Errorf("container %q is not running: its init: %w (%w)", c.ID, process.ErrEnded, err)
	}
	return p, err
}

// Process finds a process by its exec id.
func (c *Container) Process(execID string) (*process.Process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.processes[execID]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("process %q of container %q: %w", execID, c.ID, ErrNotFound)
}

// Start lets a prepared process execute.
func (c *Container) Start(execID string) (*process.Process, error) {
	p, err := c.Process(execID)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	paused := c.paused
	c.mu.Unlock()
	if paused {
		return nil, ErrPaused // it would stand still, and the caller with it
	}
	return p, p.Start()
}

// Signal sends a signal to every process of the container.
func (c *Container) Signal(sig unix.Signal) error { return c.group.Signal(sig) }

// Pids lists the container's processes; those it was asked for have their exec id.
func (c *Container) Pids() ([]*agentv1.PidsResponse_Process, error) {
	pids, err := c.group.Procs()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	names := map[int]string{}
	for id, p := range c.processes {
		if p != nil && p.Running() {
			names[p.PID] = id
		}
	}
	list := make([]*agentv1.PidsResponse_Process, 0, len(pids))
	for _, pid := range pids {
		list = append(list, &agentv1.PidsResponse_Process{Pid: uint32(pid), ExecId: names[pid]})
	}
	return list, nil
}

// Pause freezes every process, Resume lets them go on.
func (c *Container) Pause() error {
	c.mu.Lock()
	c.paused = true
	c.mu.Unlock()
	err := c.group.Freeze()
	if err != nil {
		c.mu.Lock()
		c.paused = false
		c.mu.Unlock()
	}
	return err
}

// Resume undoes Pause.
func (c *Container) Resume() error {
	if err := c.group.Thaw(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = false
	return nil
}

// Update changes limits.
func (c *Container) Update(r *specs.LinuxResources) error {
	if r.BlockIO != nil {
		ours := *r
		ours.BlockIO = renumber(r.BlockIO, c.disks)
		r = &ours
	}
	return c.group.Apply(r)
}

// Stats is what the container has used.
func (c *Container) Stats() (*agentv1.StatsResponse, error) { return c.group.Stats() }

// DeleteProcess forgets a process other than the init.
func (c *Container) DeleteProcess(execID string) (*agentv1.Exit, error) {
	p, err := c.Process(execID)
	if err != nil {
		return nil, err
	}
	exit, err := p.Delete()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.processes, execID)
	return exit, nil
}

// remove ends and forgets everything of a container whose init has ended or was never started.
func (c *Container) remove() (*agentv1.Exit, error) {
	init, err := c.Process("")
	if err != nil {
		return nil, err
	}
	exit, err := init.Delete()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	rest := make([]*process.Process, 0, len(c.processes))
	for id, p := range c.processes {
		if id != "" && p != nil {
			rest = append(rest, p)
		}
	}
	c.mu.Unlock()
	c.watcher.Remove(c.group)
	err = c.group.Delete()
	for _, p := range rest {
		_, werr := p.Wait(context.Background()) // killed with the group, or before
		_, derr := p.Delete()
		err = errors.Join(err, werr, derr)
	}
	return exit, errors.Join(err, c.unmount())
}
