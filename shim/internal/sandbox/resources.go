package sandbox

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	"github.com/huskvm/husk/shim/internal/bundle"
	"github.com/huskvm/husk/shim/internal/container"
	"github.com/huskvm/husk/shim/internal/hostcgroup"
)

const (
	// vmmOverhead is what a VMM uses on the host beyond its guest's memory.
	vmmOverhead = 64 << 20
	// netOverhead is husk-net's, with as many connections as a busy server has.
	netOverhead = 128 << 20
)

// host is what this machine has.
func host() bundle.Host {
	h := bundle.Host{CPUs: uint32(runtime.NumCPU())}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		h.Memory = uint64(info.Totalram) * uint64(info.Unit)
	}
	return h
}

// placement is the cgroup of the VMM, with what bounds the sandbox as a whole.
func placement(r Request, spec *specs.Spec, size bundle.Size) (*hostcgroup.Cgroup, error) {
	path := spec.Linux.CgroupsPath
	if err := hostcgroup.CheckDriver(path, r.SystemdCgroup); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	limits := hostcgroup.Limits{Shares: bundle.Shares(spec)}
	limits.Cpus, limits.Mems = bundle.Cpuset(spec.Linux.Resources)
	if bundle.HasMemoryLimit(spec) {
		limits.Memory = size.Memory + vmmOverhead
		if _, own := bundle.NetworkNamespace(spec); !own {
			limits.Memory += netOverhead
		}
	}
	return hostcgroup.New(path, limits)
}

// place puts the VMM into its cgroup, and says once what of the host's limits cannot be had.
func (v *vm) place(pid int) error {
	if err := v.cgroup.Add(pid); err != nil {
		return err
	}
	v.warnOf(v.cgroup.Missing())
	return nil
}

func (v *vm) warnOf(missing []string) {
	if len(missing) > 0 {
		log.L.WithField("controllers", missing).Warn("the host has no such cgroup controllers: " +
			"limits hold in the guest only, and the VM as a whole is not bounded by them")
	}
}

// limit changes what bounds the VM on the host.
func (v *vm) limit(l hostcgroup.Limits) error {
	known := v.cgroup.Missing()
	if err := v.cgroup.Update(l); err != nil {
		return err
	}
	v.warnOf(slices.DeleteFunc(v.cgroup.Missing(), func(c string) bool { return slices.Contains(known, c) }))
	return nil
}

// Update changes a container's limits, given as JSON: in the guest, and of the sandbox on the host for the container
// that made it.
func (s *Sandbox) Update(ctx context.Context, id string, resources []byte) error {
	m, err := s.member(id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	v, c, size := s.vm, s.config, s.size
	s.mu.Unlock()
	update, err := bundle.UpdateOf(resources, m.spec, m.devices(), size, c)
	if err != nil {
		return err
	}
	if err := m.Update(ctx, update.Guest); err != nil {
		return err
	}
	if !m.first {
		return nil
	}
	return v.limit(hostcgroup.Limits{Cpus: update.Cpus, Mems: update.Mems, Shares: update.Shares, IO: update.IO})
}

// Stats is what a container has used, as the guest tells. The network is the sandbox's, and its first container's.
func (s *Sandbox) Stats(ctx context.Context, id string) (*agentv1.StatsResponse, error) {
	m, err := s.member(id)
	if err != nil {
		return nil, err
	}
	stats, err := m.Stats(ctx)
	if err != nil {
		return nil, err
	}
	stats.Network = nil
	if m.first {
		s.mu.Lock()
		v := s.vm
		s.mu.Unlock()
		if v.ctx.Err() == nil {
			stats.Network = v.countNetwork()
		}
	}
	return stats, nil
}

// listen passes on what the guest has to tell, until the VM ends.
func (s *Sandbox) listen(v *vm) {
	for {
		r, err := v.agent.NextEvent(v.ctx, &agentv1.NextEventRequest{})
		if err != nil {
			if v.ctx.Err() == nil {
				log.L.WithError(err).WithField("id", s.ID).Warn("the guest tells no more events")
			}
			return
		}
		if oom := r.GetOom(); oom != nil {
			if c, err := s.Container(oom.ContainerId); err == nil {
				c.OOM()
			}
		}
		if all := r.GetListeners(); all != nil && v.ports != nil {
			v.ports.update(all)
		}
	}
}

// tellOOM tells, before a container's exit, that it, or on the host its VM, was killed for want of memory. The guest tells
// its own by an event as well, which may come after the exit; but who hears of the exit looks for the reason at once.
func (s *Sandbox) tellOOM(v *vm, id string, e container.Exit) {
	c, err := s.Container(id)
	if err != nil {
		return
	}
	if !v.oomKilled.Load() {
		if e.Status == 0 || !v.killedForMemory(id) {
			return
		}
	}
	c.OOM()
}

// killedForMemory asks the guest whether its kernel has killed in a container for want of memory.
func (v *vm) killedForMemory(id string) bool {
	ctx, cancel := context.WithTimeout(v.ctx, time.Second)
	defer cancel()
	stats, err := v.agent.Stats(ctx, &agentv1.StatsRequest{ContainerId: id})
	return err == nil && stats.GetMemory().GetEvents()["oom_kill"] > 0
}
