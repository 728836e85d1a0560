// Package task is containerd's task service: it parses requests, calls the sandbox, and gives errors the form
// that goes over the wire. It decides nothing.
package task

import (
	"context"
	"fmt"
	"os"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	typestask "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/huskvm/husk/shim/internal/bundle"
	"github.com/huskvm/husk/shim/internal/container"
	"github.com/huskvm/husk/shim/internal/sandbox"
	"github.com/huskvm/husk/shim/internal/stdio"
)

// Service serves one sandbox.
type Service struct {
	sandbox  *sandbox.Sandbox
	shutdown func() error
}

// New serves sandbox. shutdown takes the sandbox away and lets the process end once the call is answered.
func New(sandbox *sandbox.Sandbox, shutdown func() error) *Service {
	return &Service{sandbox: sandbox, shutdown: shutdown}
}

var empty = &emptypb.Empty{}

func (s *Service) create(ctx context.Context, r *taskv3.CreateTaskRequest) (*taskv3.CreateTaskResponse, error) {
	if r.Checkpoint != "" {
		return nil, fmt.Errorf("restore container %s from a checkpoint: a VM's container cannot: %w", r.ID, errdefs.ErrNotImplemented)
	}
	o, err := readOptions(r.Options)
	if err != nil {
		return nil, err
	}
	err = s.sandbox.Create(ctx, sandbox.Request{
		ID: r.ID, Bundle: r.Bundle, Rootfs: r.Rootfs,
		Stdio:      stdio.Config{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
		ConfigPath: o.path, ConfigBody: o.body,
		SystemdCgroup: o.systemd, ShimCgroup: o.shimCgroup,
	})
	if err != nil {
		return nil, err
	}
	return &taskv3.CreateTaskResponse{Pid: s.pid(r.ID)}, nil
}

func (s *Service) start(ctx context.Context, r *taskv3.StartRequest) (*taskv3.StartResponse, error) {
	if err := s.sandbox.Start(ctx, r.ID, r.ExecID); err != nil {
		return nil, err
	}
	return &taskv3.StartResponse{Pid: s.pid(r.ID)}, nil
}

// pid stands for a container's processes on the host; the VMM's own when there is no such container.
func (s *Service) pid(id string) uint32 {
	if c, err := s.sandbox.Container(id); err == nil {
		return c.PID
	}
	return s.sandbox.PID()
}

func (s *Service) process(id, execID string) (*container.Container, *container.Process, error) {
	c, err := s.sandbox.Container(id)
	if err != nil {
		return nil, nil, err
	}
	p, err := c.Process(execID)
	return c, p, err
}

func (s *Service) state(_ context.Context, r *taskv3.StateRequest) (*taskv3.StateResponse, error) {
	c, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	exit, streams := p.Exit(), p.Stdio()
	response := &taskv3.StateResponse{
		ID: p.ID(), Bundle: c.Bundle, Pid: c.PID, ExecID: r.ExecID,
		Stdin: streams.Stdin, Stdout: streams.Stdout, Stderr: streams.Stderr, Terminal: streams.Terminal,
		ExitStatus: exit.Status,
	}
	if !exit.At.IsZero() {
		response.ExitedAt = timestamppb.New(exit.At)
	}
	switch p.State() {
	case container.Created:
		response.Status = typestask.Status_CREATED
	case container.Running:
		response.Status = typestask.Status_RUNNING
	case container.Paused:
		response.Status = typestask.Status_PAUSED
	case container.Stopped:
		response.Status = typestask.Status_STOPPED
	}
	return response, nil
}

func (s *Service) delete(ctx context.Context, r *taskv3.DeleteRequest) (*taskv3.DeleteResponse, error) {
	pid := s.pid(r.ID)
	exit, err := s.deleteProcess(ctx, r)
	if err != nil {
		return nil, err
	}
	response := &taskv3.DeleteResponse{Pid: pid, ExitStatus: exit.Status}
	if !exit.At.IsZero() {
		response.ExitedAt = timestamppb.New(exit.At)
	}
	return response, nil
}

func (s *Service) deleteProcess(ctx context.Context, r *taskv3.DeleteRequest) (container.Exit, error) {
	if r.ExecID == "" {
		return s.sandbox.Delete(ctx, r.ID)
	}
	c, err := s.sandbox.Container(r.ID)
	if err != nil {
		return container.Exit{}, err
	}
	return c.DeleteExec(ctx, r.ExecID)
}

func (s *Service) exec(_ context.Context, r *taskv3.ExecProcessRequest) (*emptypb.Empty, error) {
	c, err := s.sandbox.Container(r.ID)
	if err != nil {
		return nil, err
	}
	process, err := bundle.ProcessForGuest(r.Spec.GetValue())
	if err != nil {
		return nil, err
	}
	streams := stdio.Config{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal}
	return empty, c.Exec(r.ExecID, process, streams)
}

// pids answers with the container's pid for every process: the guest's own numbers mean other processes on the host.
func (s *Service) pids(_ context.Context, r *taskv3.PidsRequest) (*taskv3.PidsResponse, error) {
	c, err := s.sandbox.Container(r.ID)
	if err != nil {
		return nil, err
	}
	if c.State() == container.Stopped {
		return nil, fmt.Errorf("container %s is stopped: %w", r.ID, errdefs.ErrFailedPrecondition)
	}
	response := &taskv3.PidsResponse{Processes: []*typestask.ProcessInfo{{Pid: c.PID}}}
	for _, id := range c.Execs() {
		info, err := typeurl.MarshalAnyToProto(&options.ProcessDetails{ExecID: id})
		if err != nil {
			return nil, fmt.Errorf("describe process %s: %w", id, err)
		}
		response.Processes = append(response.Processes, &typestask.ProcessInfo{Pid: c.PID, Info: info})
	}
	return response, nil
}

func (s *Service) pause(ctx context.Context, r *taskv3.PauseRequest) (*emptypb.Empty, error) {
	return empty, s.sandbox.Pause(ctx, r.ID)
}

func (s *Service) resume(ctx context.Context, r *taskv3.ResumeRequest) (*emptypb.Empty, error) {
	return empty, s.sandbox.Resume(ctx, r.ID)
}

func (s *Service) checkpoint(_ context.Context, r *taskv3.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, fmt.Errorf("checkpoint container %s: a VM's container cannot be checkpointed: %w", r.ID, errdefs.ErrNotImplemented)
}

func (s *Service) kill(ctx context.Context, r *taskv3.KillRequest) (*emptypb.Empty, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return empty, p.Kill(ctx, r.Signal, r.All)
}

func (s *Service) resizePty(ctx context.Context, r *taskv3.ResizePtyRequest) (*emptypb.Empty, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return empty, p.Resize(ctx, r.Width, r.Height)
}

func (s *Service) closeIO(ctx context.Context, r *taskv3.CloseIORequest) (*emptypb.Empty, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil || !r.Stdin {
		return empty, err
	}
	return empty, p.CloseStdin(ctx)
}

func (s *Service) update(ctx context.Context, r *taskv3.UpdateTaskRequest) (*emptypb.Empty, error) {
	return empty, s.sandbox.Update(ctx, r.ID, r.Resources.GetValue())
}

func (s *Service) wait(ctx context.Context, r *taskv3.WaitRequest) (*taskv3.WaitResponse, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	exit, err := p.Wait(ctx)
	if err != nil {
		return nil, err
	}
	return &taskv3.WaitResponse{ExitStatus: exit.Status, ExitedAt: timestamppb.New(exit.At)}, nil
}

func (s *Service) stats(ctx context.Context, r *taskv3.StatsRequest) (*taskv3.StatsResponse, error) {
	stats, err := s.sandbox.Stats(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	metrics, err := metrics(stats)
	if err != nil {
		return nil, err
	}
	return &taskv3.StatsResponse{Stats: metrics}, nil
}

func (s *Service) connect(_ context.Context, r *taskv3.ConnectRequest) (*taskv3.ConnectResponse, error) {
	return &taskv3.ConnectResponse{ShimPid: uint32(os.Getpid()), TaskPid: s.pid(r.ID)}, nil
}

// shutdownIfIdle does nothing while there are containers, as containerd asks after each one's deletion.
func (s *Service) shutdownIfIdle(_ context.Context, r *taskv3.ShutdownRequest) (*emptypb.Empty, error) {
	if !r.Now && s.sandbox.Containers() > 0 {
		return empty, nil
	}
	return empty, s.shutdown()
}
