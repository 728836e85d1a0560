package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	"github.com/huskvm/husk/shim/internal/bundle"
	"github.com/huskvm/husk/shim/internal/container"
)

// Pod is a sandbox that the Sandbox API asks for: the VM begins without a container of the engine's.
type Pod struct {
	Spec   *specs.Spec       // of the process that holds the namespaces; see bundle.PodSpec
	Files  map[string][]byte // bundle.PodFiles
	Bundle string
	// Of the runtime's options.
	ConfigPath string
	ConfigBody []byte
}

// PodStatus is what the Sandbox API tells of a pod.
type PodStatus struct {
	PID     uint32
	Ready   bool
	Created time.Time
	Exited  time.Time // zero while it is not
}

// podFiles is the directory of Pod.Files in the sandbox's.
const podFiles = "pod"

// silence takes the events of what the engine has no name for.
type silence struct{}

func (silence) Publish(proto.Message) {}

// CreatePod keeps what StartPod will boot.
func (s *Sandbox) CreatePod(p Pod) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pod != nil || s.phase != empty {
		return fmt.Errorf("sandbox %s: %w", s.ID, errdefs.ErrAlreadyExists)
	}
	if err := os.MkdirAll(s.Dir.Join(podFiles), 0o711); err != nil {
		return fmt.Errorf("create the pod's files: %w", err)
	}
	for name, data := range p.Files {
		if err := os.WriteFile(s.Dir.Join(podFiles+"/"+name), data, 0o644); err != nil {
			return fmt.Errorf("create the pod's files: %w", err)
		}
	}
	s.pod = &p
	s.idle.Stop() // the engine may fetch an image before it goes on
	return nil
}

// StartPod boots the VM. On error it is gone, and may be tried again.
func (s *Sandbox) StartPod(ctx context.Context) (err error) {
	s.mu.Lock()
	p := s.pod
	s.mu.Unlock()
	if p == nil {
		return fmt.Errorf("sandbox %s was not created by the Sandbox API: %w", s.ID, errdefs.ErrFailedPrecondition)
	}
	if _, err := s.admit(Request{ID: s.ID, Bundle: p.Bundle}, bundle.Identity{Sandbox: s.ID, Kind: bundle.Pod}); err != nil {
		return err
	}
	defer s.creating.Done()
	booting, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	r := Request{ID: s.ID, Bundle: p.Bundle, ConfigPath: p.ConfigPath, ConfigBody: p.ConfigBody, pause: true}
	if err := s.createFirst(booting, r, p.Spec); err != nil {
		s.dismiss(s.ID, true)
		return err
	}
	return s.Start(ctx, s.ID, "")
}

// StopPod ends the VM with all that runs in it, and returns when it is gone.
func (s *Sandbox) StopPod(ctx context.Context) error {
	s.mu.Lock()
	gone, phase := s.gone, s.phase
	s.mu.Unlock()
	if phase == empty || phase == booting {
		return nil
	}
	holder, err := s.holder()
	if err != nil {
		return err
	}
	if err := holder.Kill(ctx, uint32(unix.SIGKILL), true); err != nil && !errdefs.IsNotFound(err) && !errors.Is(err, errdefs.ErrUnavailable) {
		return err
	}
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the VM's end: %w", ctx.Err())
	}
}

// WaitPod returns when the VM has ended.
func (s *Sandbox) WaitPod(ctx context.Context) (container.Exit, error) {
	holder, err := s.holder()
	if err != nil {
		return container.Exit{}, err
	}
	return holder.Wait(ctx)
}

// PodStatus is answered from the shim's own record.
func (s *Sandbox) PodStatus() PodStatus {
	s.mu.Lock()
	status := PodStatus{Ready: s.phase == running, Created: s.state.Started}
	s.mu.Unlock()
	status.PID = s.PID()
	if holder, err := s.holder(); err == nil {
		status.Exited = holder.Exit().At
		status.Ready = status.Ready && holder.State() == container.Running
	}
	return status
}

// PodStats is what the VM as a whole uses on the host.
func (s *Sandbox) PodStats() (*agentv1.StatsResponse, error) {
	s.mu.Lock()
	v := s.vm
	s.mu.Unlock()
	if v == nil {
		return nil, fmt.Errorf("sandbox %s has no VM: %w", s.ID, errdefs.ErrFailedPrecondition)
	}
	stats, err := v.cgroup.Stats()
	if err != nil {
		return nil, err
	}
	stats.Network = v.countNetwork()
	return stats, nil
}

// holder is the process that stands for the pod.
func (s *Sandbox) holder() (*container.Process, error) {
	c, err := s.Container(s.ID)
	if err != nil {
		return nil, err
	}
	return c.Process("")
}
