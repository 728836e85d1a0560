// Package agent serves the API of agent.proto: it parses the request, calls package container, and translates
// the error; nothing else. The host on the other side is trusted, the containers below are not.
package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/huskvm/husk/guest-agent/internal/boot"
	"github.com/huskvm/husk/guest-agent/internal/container"
	"github.com/huskvm/husk/guest-agent/internal/netcfg"
	"github.com/huskvm/husk/guest-agent/internal/process"
	"github.com/huskvm/husk/guest-agent/internal/stream"
	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Version is that of the API this agent speaks.
const Version = 1

// maxSignal is the highest real-time signal.
const maxSignal = 64

// Service implements agentv1.AgentService.
type Service struct {
	containers *container.List
	events     events
	marks      *boot.Marks
	ready      func(context.Context) error
	shutdown   func()
	dial       stream.Dial
	network    netcfg.Interfaces
}

// New makes the service. ready waits for what the boot has still to do before the handshake; shutdown ends the VM.
func New(runner *process.Runner, marks *boot.Marks, ready func(context.Context) error, shutdown func()) *Service {
	s := &Service{marks: marks, ready: ready, shutdown: shutdown, dial: runner.Dial}
	s.events.changed = make(chan struct{}, 1)
	s.containers = container.NewList(runner, func(id string) {
		s.events.add(&agentv1.NextEventResponse{
			Event: &agentv1.NextEventResponse_Oom{Oom: &agentv1.NextEventResponse_OOM{ContainerId: id}},
		})
	})
	return s
}

// Handshake is the first call.
func (s *Service) Handshake(ctx context.Context, req *agentv1.HandshakeRequest) (*agentv1.HandshakeResponse, error) {
	if req.GetVersion() != Version {
		return nil, status.Errorf(codes.FailedPrecondition,
			"the agent speaks version %d of its API, not %d: use the initramfs of the same release", Version, req.GetVersion())
	}
	s.marks.Add("handshake")
	if err := setClock(req.GetNow()); err != nil {
		return nil, translate(err)
	}
	if err := s.ready(ctx); err != nil {
		return nil, translate(err)
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, translate(fmt.Errorf("uname: %w", err))
	}
	s.marks.Add("ready")
	return &agentv1.HandshakeResponse{
		Version: Version,
		Kernel:  unix.ByteSliceToString(uts.Release[:]),
		Marks:   s.marks.List(),
	}, nil
}

// CreateContainer prepares a container and its init.
func (s *Service) CreateContainer(ctx context.Context, req *agentv1.CreateContainerRequest) (*agentv1.CreateContainerResponse, error) {
	p, err := s.containers.Create(ctx, req)
	if err != nil {
		return nil, translate(err)
	}
	return &agentv1.CreateContainerResponse{Pid: uint32(p.PID)}, nil
}

// ExecProcess prepares a further process.
func (s *Service) ExecProcess(ctx context.Context, req *agentv1.ExecProcessRequest) (*agentv1.ExecProcessResponse, error) {
	c, err := s.containers.Get(req.GetContainerId())
	if err != nil {
		return nil, translate(err)
	}
	p, err := c.Exec(ctx, req)
	if err != nil {
		return nil, translate(err)
	}
	return &agentv1.ExecProcessResponse{Pid: uint32(p.PID)}, nil
}

// StartProcess lets a prepared process execute.
func (s *Service) StartProcess(_ context.Context, req *agentv1.StartProcessRequest) (*agentv1.StartProcessResponse, error) {
	c, err := s.containers.Get(req.GetContainerId())
	if err != nil {
		return nil, translate(err)
	}
	p, err := c.Start(req.GetExecId())
	if err != nil {
		return nil, translate(err)
	}
	return &agentv1.StartProcessResponse{Pid: uint32(p.PID)}, nil
}

// WaitProcess answers when the process has ended and its output was handed over.
func (s *Service) WaitProcess(ctx context.Context, req *agentv1.WaitProcessRequest) (*agentv1.WaitProcessResponse, error) {
	c, err := s.containers.Get(req.GetContainerId())
	if err != nil {
		return nil, translate(err)
	}
	p, err := c.Process(req.GetExecId())
	if err != nil {
		return nil, translate(err)
	}
	exit, err := p.Wait(ctx)
	if err != nil {
		return nil, translate(err)
	}
	resp := &agentv1.WaitProcessResponse{Exit: exit}
	if req.GetExecId() == "" {
		if resp.Stats, err = c.Stats(); err != nil {
			slog.Warn("the last statistics of a container", "container", c.ID, "error", err)
		}
	}
	return resp, nil
}

// SignalProcess sends a signal to one process or to all of a container.
func (s *Service) SignalProcess(_ context.Context, req *agentv1.SignalProcessRequest) (*agentv1.SignalProcessResponse, error) {
	if req.GetSignal() > maxSignal {
		return nil, status.Errorf(codes.InvalidArgument, "signal %d is out of range", req.GetSignal())
	}
	sig := unix.Signal(req.GetSignal())
	c, err := s.containers.Get(req.GetContainerId())
	if err != nil {
		return nil, translate(err)
	}
	if req.GetAll() {
		return &agentv1.SignalProcessResponse{}, translate(c.Signal(sig))
	}
	p, err := c.Process(req.GetExecId())
	if err != nil {
		return nil, translate(err)
	}
	return &agentv1.SignalProcessResponse{}, translate(p.Signal(sig))
}

// ResizePty sets a terminal's size.
func (s *Service) ResizePty(_ context.Context, req *agentv1.ResizePtyRequest) (*agentv1.ResizePtyResponse, error) {
	p, err := s.containers.Process(req.GetContainerId(), req.GetExecId())
	if err != nil {
		return nil, translate(err)
	}
	if req.GetWidth() > 1<<16-1 || req.GetHeight() > 1<<16-1 {
		return nil, status.Errorf(codes.InvalidArgument, "terminal size %dx%d is out of range", req.GetWidth(), req.GetHeight())
	}
	return &agentv1.ResizePtyResponse{}, translate(p.Resize(uint16(req.GetWidth()), uint16(req.GetHeight())))
}

// CloseStdin only checks that there is such a process: the end comes in the stream, behind the data.
func (s *Service) CloseStdin(_ context.Context, req *agentv1.CloseStdinRequest) (*agentv1.CloseStdinResponse, error) {
	if _, err := s.containers.Process(req.GetContainerId(), req.GetExecId()); err != nil {
		return nil, translate(err)
	}
	return &agentv1.CloseStdinResponse{}, nil
}

// DeleteProcess forgets a process, and with its init a container.
func (s *Service) DeleteProcess(_ context.Context, req *agentv1.DeleteProcessRequest) (*agentv1.DeleteProcessResponse, error) {
	exit, err := s.containers.Delete(req.GetContainerId(), req.GetExecId())
	if err != nil {
		return nil, translate(err)
	}
	return &agentv1.DeleteProcessResponse{Exit: exit}, nil
}

// Pids lists a container's processes.
func (s *Service) Pids(_ context.Context, req *agentv1.PidsRequest) (*agentv1.PidsResponse, error) {
	c, err := s.containers.Get(req.GetContainerId())
	if err != nil {
		return nil, translate(err)
	}
	list, err := c.Pids()
	if err != nil {
		return nil, translate(err)
	}
	return &agentv1.PidsResponse{Processes: list}, nil
}

// Pause freezes a container.
func (s *Service) Pause(_ context.Context, req *agentv1.PauseRequest) (*agentv1.PauseResponse, error) {
	c, err := s.containers.Get(req.GetContainerId())
	if err != nil {
		return nil, translate(err)
	}
	return &agentv1.PauseResponse{}, translate(c.Pause())
}

// Resume lets it go on.
func (s *Service) Resume(_ context.Context, req *agentv1.ResumeRequest) (*agentv1.ResumeResponse, error) {
	c, err := s.containers.Get(req.GetContainerId())
	if err != nil {
		return nil, translate(err)
	}
	return &agentv1.ResumeResponse{}, translate(c.Resume())
}

// UpdateContainer changes limits.
func (s *Service) UpdateContainer(_ context.Context, req *agentv1.UpdateContainerRequest) (*agentv1.UpdateContainerResponse, error) {
	c, err := s.containers.Get(req.GetContainerId())
	if err != nil {
		return nil, translate(err)
	}
	var r specs.LinuxResources
	if err := json.Unmarshal(req.GetResources(), &r); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "parse resources: %v", err)
	}
	return &agentv1.UpdateContainerResponse{}, translate(c.Update(&r))
}

// Stats is what a container has used.
func (s *Service) Stats(_ context.Context, req *agentv1.StatsRequest) (*agentv1.StatsResponse, error) {
	c, err := s.containers.Get(req.GetContainerId())
	if err != nil {
		return nil, translate(err)
	}
	stats, err := c.Stats()
	if err != nil {
		return nil, translate(err)
	}
	return stats, nil
}

// NextEvent waits for an event.
func (s *Service) NextEvent(ctx context.Context, _ *agentv1.NextEventRequest) (*agentv1.NextEventResponse, error) {
	e, err := s.events.next(ctx)
	if err != nil {
		return nil, translate(err)
	}
	return e, nil
}

// SyncClock tells the wall clock, and moves it.
func (s *Service) SyncClock(_ context.Context, req *agentv1.SyncClockRequest) (*agentv1.SyncClockResponse, error) {
	now, err := moveClock(time.Duration(req.GetOffset()))
	if err != nil {
		return nil, translate(err)
	}
	return &agentv1.SyncClockResponse{Now: now.UnixNano()}, nil
}

// DropCaches is asked for when files that the guest remembers are too many for its host.
func (s *Service) DropCaches(context.Context, *agentv1.DropCachesRequest) (*agentv1.DropCachesResponse, error) {
	// What has pages is not forgotten, so these go too.
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return nil, translate(fmt.Errorf("drop the caches: %w", err))
	}
	return &agentv1.DropCachesResponse{}, nil
}

// Shutdown ends the VM; the caller learns it from the end of the connection.
func (s *Service) Shutdown(context.Context, *agentv1.ShutdownRequest) (*agentv1.ShutdownResponse, error) {
	s.shutdown()
	return &agentv1.ShutdownResponse{}, nil
}
