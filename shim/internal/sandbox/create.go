package sandbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	vmmv1 "github.com/huskvm/husk/proto/husk/vmm/v1"
	"github.com/huskvm/husk/shim/internal/bundle"
	"github.com/huskvm/husk/shim/internal/config"
	"github.com/huskvm/husk/shim/internal/container"
	"github.com/huskvm/husk/shim/internal/hostcgroup"
	"github.com/huskvm/husk/shim/internal/rundir"
	"github.com/huskvm/husk/shim/internal/stdio"
)

// Request is what containerd asks Create for.
type Request struct {
	ID     string
	Bundle string
	Rootfs []*types.Mount
	Stdio  stdio.Config
	// Of the runtime's options.
	ConfigPath string
	ConfigBody []byte
	// Of runc's options.
	SystemdCgroup bool
	ShimCgroup    string
	// pause makes the process that stands for a pod without a container of its own: it has no root, and the engine
	// hears nothing of it.
	pause bool
}

// createFirst boots the VM and creates its first container. On error both are gone.
func (s *Sandbox) createFirst(ctx context.Context, r Request, spec *specs.Spec) (err error) {
	s.marks.Add("create called")
	plan, err := s.plan(r, spec)
	if err != nil {
		return err
	}
	defer plan.assets.close()
	v := &vm{dir: s.Dir, cgroup: plan.cgroup}
	if err := v.listen(); err != nil {
		return err
	}
	// What is looked for after this process was killed is written down before it is there.
	s.mu.Lock()
	s.state.Cgroup = spec.Linux.CgroupsPath
	s.state.NetNS, _ = bundle.NetworkNamespace(spec)
	s.save()
	s.mu.Unlock()
	// The VMM starts up while the root is mounted.
	spawned := make(chan error, 1)
	go func() {
		err := v.spawn(ctx, s.Launch, plan.config.VMM, spec.Process.OOMScoreAdj)
		s.marks.Add("vmm spawned")
		spawned <- err
	}()
	p, err := s.prepare(ctx, v, r, spec, plan.guest)
	s.marks.Add("root mounted")
	spawnErr := <-spawned
	defer func() {
		if err == nil {
			return
		}
		if spawnErr == nil {
			err = errors.Join(err, v.stop(false))
		} else {
			_ = v.control.Close()
			err = errors.Join(err, v.hub.Close(), v.cgroup.Remove())
		}
		if p.guest != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if err = errors.Join(err, spawnErr); err != nil {
		return err
	}
	s.mu.Lock()
	s.vm, s.config, s.size, s.gone = v, plan.config, plan.size, make(chan struct{})
	s.state.VCPUs, s.state.Memory = plan.size.VCPUs, plan.size.Memory
	s.state.VMM, _ = rundir.Identify(v.machine.PID())
	s.state.Started = time.Now()
	s.save()
	s.mu.Unlock()

	if err := p.runHooks(ctx, uint32(v.machine.PID())); err != nil {
		return err
	}
	if err := v.connectNetwork(spec, s.Namespace, plan); err != nil { // after the hooks, which may have made it
		return err
	}
	s.marks.Add("network connected")
	if err := s.boot(ctx, v, plan, &p); err != nil {
		return err
	}
	// The boot was husk's own I/O, and unlimited.
	if err := v.limit(hostcgroup.Limits{IO: bundle.HostIO(spec.Linux.Resources, p.devices())}); err != nil {
		return err
	}
	m := &member{first: true, prepared: p, spec: spec}
	if err := s.createContainer(ctx, v, r, m); err != nil {
		return err
	}
	v.forwardPorts()
	v.followNetwork()
	go s.listen(v)
	return nil
}

// plan is all that can be found wrong before anything is started.
type plan struct {
	config *config.Config
	guest  *bundle.Guest
	size   bundle.Size
	cgroup *hostcgroup.Cgroup
	assets assets
	// spareDisks are for the roots of the pod's other containers.
	spareDisks uint32
}

func (s *Sandbox) plan(r Request, spec *specs.Spec) (*plan, error) {
	source := s.Config
	if r.ConfigPath != "" {
		source.Path = r.ConfigPath
	}
	source.Body = r.ConfigBody
	c, err := config.Load(source)
	if err != nil {
		return nil, err
	}
	if c.Debug {
		_ = log.SetLevel("debug")
	}
	p := &plan{config: c, spareDisks: spareDisks(c, r, spec)}
	if p.guest, err = bundle.ForGuest(r.ID, spec); err != nil {
		return nil, err
	}
	for _, note := range p.guest.Notes {
		log.L.WithField("id", r.ID).Info(note)
	}
	if p.size, err = bundle.SizeOf(spec, c, host()); err != nil {
		return nil, err
	}
	if p.cgroup, err = placement(r, spec, p.size); err != nil {
		return nil, err
	}
	if path := cmp.Or(c.ShimCgroup, r.ShimCgroup); path != "" {
		if err := hostcgroup.Join(path, os.Getpid()); err != nil {
			return nil, fmt.Errorf("move the shim (shim_cgroup): %w", err)
		}
	}
	p.assets, err = openAssets(c, s.Dir)
	return p, err
}

// boot starts the guest and returns when its agent answers.
func (s *Sandbox) boot(ctx context.Context, v *vm, plan *plan, p *prepared) (err error) {
	ctx, cancel := v.within(ctx, time.Duration(plan.config.BootTimeout))
	defer cancel()
	defer func() { err = inTime(ctx, err) }()
	defer context.AfterFunc(v.ctx, cancel)()

	request, err := plan.assets.donate(v.machine)
	if err != nil {
		return v.explain(err)
	}
	request.Backend = &vmmv1.Backend{Kind: plan.config.Backend, Qemu: plan.config.QEMU}
	request.Vcpus, request.MemoryBytes = plan.size.VCPUs, plan.size.Memory
	request.VhostNet = plan.config.VhostNet == config.VhostNetAuto
	request.Cmdline = hostname() + plan.config.Cmdline()
	if request.Shares, request.Disks, err = p.donate(v.machine, s.config.SharedACLs); err != nil {
		return v.explain(err)
	}
	request.SpareDisks = plan.spareDisks
	if request.Nics, err = v.donateNICs(); err != nil {
		return v.explain(err)
	}
	booted, err := v.machine.API().Boot(ctx, request)
	if err != nil {
		return v.explain(fmt.Errorf("boot the VM: %w", errgrpc.ToNative(err)))
	}
	log.L.WithField("id", s.ID).WithField("backend", booted.Backend).WithField("reason", booted.Reason).Info("the VM is booting")
	s.marks.Add("vm booted")
	answer, err := v.connect(ctx)
	if err != nil {
		return v.explain(err)
	}
	s.marks.Add("agent answered")
	if err := v.configureNetwork(ctx); err != nil {
		return v.explain(err)
	}
	s.recordMarks(ctx, v, answer.Marks)
	go s.keepRoom(v)
	if interval := time.Duration(plan.config.ClockInterval); interval > 0 {
		go s.keepClock(v, interval)
	}
	return nil
}

// explain prefers the VMM's end as the reason over what it broke off.
func (v *vm) explain(err error) error {
	select {
	case <-v.ctx.Done():
	case <-time.After(100 * time.Millisecond): // what breaks a call off is often the end itself
		return err
	}
	return fmt.Errorf("%w: %w", err, v.endError())
}

// createMember adds a container to the running VM.
func (s *Sandbox) createMember(ctx context.Context, r Request, spec *specs.Spec) (err error) {
	s.mu.Lock()
	v, pod := s.vm, s.pod
	s.mu.Unlock()
	if pod != nil {
		bundle.UsePodFiles(spec, s.ID, s.Dir.Join(podFiles))
	}
	guest, err := bundle.ForGuest(r.ID, spec)
	if err != nil {
		return err
	}
	if err := guest.JoinTarget(spec, s.pids(v)); err != nil {
		return err
	}
	p, err := s.prepare(ctx, v, r, spec, guest)
	if err != nil {
		return err
	}
	m := &member{prepared: p, spec: spec}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.release(context.WithoutCancel(ctx), m))
		}
	}()
	if m.thread, err = v.addThread(ctx); err != nil {
		return err
	}
	if err := m.runHooks(ctx, m.thread); err != nil {
		return err
	}
	if err := v.give(ctx, m, s.config.SharedACLs); err != nil {
		return fmt.Errorf("container %s: %w", r.ID, err)
	}
	return s.createContainer(ctx, v, r, m)
}

// createContainer creates m in the guest, whose host part is ready.
func (s *Sandbox) createContainer(ctx context.Context, v *vm, r Request, m *member) error {
	spec, err := json.Marshal(m.prepared.guest.Spec)
	if err != nil {
		return fmt.Errorf("encode the guest's specification: %w", err)
	}
	params := container.Params{
		ID: r.ID, Bundle: r.Bundle, Rootfs: r.Rootfs,
		Spec: spec, Storages: m.storages(bundle.Identify(r.ID, m.prepared.guest.Spec.Annotations)),
		Stdio: r.Stdio, Session: m.session,
		PID:       cmp.Or(m.thread, uint32(v.machine.PID())),
		MustExist: s.config.MissingExecutable == config.MissingExecutableFails,
		EndsVM:    m.first,
		Guest:     guest{v.agent, v, m.first},
		Sink:      s.Sink,
		Open: func(ctx context.Context, c stdio.Config) (*stdio.Session, error) {
			return s.openStdio(ctx, v, r.ID, c)
		},
		Exited: func(e container.Exit) {
			s.tellOOM(v, r.ID, e)
			s.recordExit(r.ID, e)
		},
		Ended: func() {},
	}
	if r.pause {
		params.Sink = silence{}
	}
	if size := m.prepared.guest.Spec.Process.ConsoleSize; size != nil {
		params.Width, params.Height = uint32(size.Width), uint32(size.Height)
	}
	if m.first {
		gone := s.gone
		params.Ended = func() { go s.end(v, gone) }
	}
	c, err := container.Create(ctx, params)
	if err != nil {
		return fmt.Errorf("create container in the guest: %w", v.explain(err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m.Container = c
	s.containers[r.ID] = m
	if m.first && s.phase == booting {
		s.phase = running
	}
	s.marks.Add("container created")
	return nil
}

func (s *Sandbox) recordExit(id string, e container.Exit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.state.Containers, func(c rundir.Container) bool { return c.ID == id })
	if i >= 0 {
		s.state.Containers[i].Exit = &rundir.Exit{Status: e.Status, At: e.At}
		s.save()
	}
}

// end ends the VM after its first container.
func (s *Sandbox) end(v *vm, gone chan struct{}) {
	s.mu.Lock()
	s.phase = ended
	s.mu.Unlock()
	if v.ctx.Err() != nil {
		v.report(s.ID)
	}
	if err := v.stop(true); err != nil {
		log.L.WithError(err).WithField("id", s.ID).Error("stop the VM")
	}
	close(gone)
}

// hostname is the word of the guest's command line that gives it the host's name, as a container without one of its own
// has under runc; empty for a name that is no word.
func hostname() string {
	name, err := os.Hostname()
	plain := func(r rune) bool {
		return r == '-' || r == '.' || r == '_' || '0' <= r && r <= '9' || 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z'
	}
	if err != nil || name == "" || strings.ContainsFunc(name, func(r rune) bool { return !plain(r) }) {
		return ""
	}
	return "hostname=" + name + " "
}
