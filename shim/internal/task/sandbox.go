package task

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"time"

	sandboxv1 "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	criv1 "github.com/huskvm/husk/proto/husk/cri/v1"
	"github.com/huskvm/husk/shim/internal/bundle"
	"github.com/huskvm/husk/shim/internal/sandbox"
)

// pods is containerd's sandbox service, for `sandboxer = "shim"`: the engine has no container for the pod itself.
type pods struct {
	*Service
	namespace string
	options   *anypb.Any // of the runtime
}

// RegisterPods serves the Sandbox API. options are those of the runtime, which come with the shim's start.
func (s *Service) RegisterPods(server *ttrpc.Server, namespace string, options *anypb.Any) {
	p := pods{s, namespace, options}
	server.RegisterService("containerd.runtime.sandbox.v1.Sandbox", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"CreateSandbox":   method(p.create),
		"StartSandbox":    method(p.start),
		"Platform":        method(p.platform),
		"StopSandbox":     method(p.stop),
		"WaitSandbox":     method(p.wait),
		"SandboxStatus":   method(p.status),
		"PingSandbox":     method(p.ping),
		"ShutdownSandbox": method(p.shutdownSandbox),
		"SandboxMetrics":  method(p.metrics),
		"UpdateSandbox":   method(p.update),
	}})
}

func (p pods) create(_ context.Context, r *sandboxv1.CreateSandboxRequest) (*sandboxv1.CreateSandboxResponse, error) {
	if len(r.Rootfs) > 0 {
		return nil, fmt.Errorf("sandbox %s: a root file system of the sandbox itself is not supported: %w", r.SandboxID, errdefs.ErrNotImplemented)
	}
	o, err := readOptions(p.options)
	if err != nil {
		return nil, err
	}
	config := new(criv1.PodSandboxConfig)
	if err := proto.Unmarshal(r.Options.GetValue(), config); err != nil {
		return nil, fmt.Errorf("parse the pod's configuration: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	spec, err := bundle.PodSpec(r.SandboxID, p.namespace, r.NetnsPath, config)
	if err != nil {
		return nil, err
	}
	files, err := podFiles(config)
	if err != nil {
		return nil, err
	}
	return &sandboxv1.CreateSandboxResponse{}, p.sandbox.CreatePod(sandbox.Pod{
		Spec: spec, Files: files, Bundle: r.BundlePath, ConfigPath: o.path, ConfigBody: o.body,
	})
}

// podFiles are bundle.PodFiles: what the configuration does not say is as on the host.
func podFiles(config *criv1.PodSandboxConfig) (map[string][]byte, error) {
	files := map[string][]byte{
		"hostname":    []byte(config.GetHostname()),
		"resolv.conf": []byte(bundle.ResolvConf(config.GetDnsConfig())),
	}
	for _, name := range bundle.PodFiles {
		if len(files[name]) > 0 {
			continue
		}
		data, err := os.ReadFile("/etc/" + name)
		if err != nil && !os.IsNotExist(err) {
			return nil, fmt.Errorf("copy a file for the pod: %w", err)
		}
		files[name] = data
	}
	if config.GetHostname() != "" {
		files["hostname"] = append(files["hostname"], '\n')
	}
	return files, nil
}

func (p pods) start(ctx context.Context, _ *sandboxv1.StartSandboxRequest) (*sandboxv1.StartSandboxResponse, error) {
	if err := p.sandbox.StartPod(ctx); err != nil {
		return nil, err
	}
	s := p.sandbox.PodStatus()
	return &sandboxv1.StartSandboxResponse{Pid: s.PID, CreatedAt: timestamppb.New(s.Created)}, nil
}

func (p pods) platform(context.Context, *sandboxv1.PlatformRequest) (*sandboxv1.PlatformResponse, error) {
	return &sandboxv1.PlatformResponse{Platform: &types.Platform{OS: "linux", Architecture: runtime.GOARCH}}, nil
}

// stop ends the VM: the engine has stopped its containers one by one before.
func (p pods) stop(ctx context.Context, _ *sandboxv1.StopSandboxRequest) (*sandboxv1.StopSandboxResponse, error) {
	return &sandboxv1.StopSandboxResponse{}, p.sandbox.StopPod(ctx)
}

func (p pods) wait(ctx context.Context, _ *sandboxv1.WaitSandboxRequest) (*sandboxv1.WaitSandboxResponse, error) {
	exit, err := p.sandbox.WaitPod(ctx)
	if err != nil {
		return nil, err
	}
	return &sandboxv1.WaitSandboxResponse{ExitStatus: exit.Status, ExitedAt: timestamppb.New(exit.At)}, nil
}

// The states, by the names that the CRI has for them.
const (
	stateReady    = "SANDBOX_READY"
	stateNotReady = "SANDBOX_NOTREADY"
)

func (p pods) status(_ context.Context, r *sandboxv1.SandboxStatusRequest) (*sandboxv1.SandboxStatusResponse, error) {
	s := p.sandbox.PodStatus()
	response := &sandboxv1.SandboxStatusResponse{
		SandboxID: r.SandboxID, Pid: s.PID, State: stateNotReady, CreatedAt: timestamppb.New(s.Created),
	}
	if s.Ready {
		response.State = stateReady
	}
	if !s.Exited.IsZero() {
		response.ExitedAt = timestamppb.New(s.Exited)
	}
	return response, nil
}

func (p pods) ping(context.Context, *sandboxv1.PingRequest) (*sandboxv1.PingResponse, error) {
	return &sandboxv1.PingResponse{}, nil
}

func (p pods) shutdownSandbox(context.Context, *sandboxv1.ShutdownSandboxRequest) (*sandboxv1.ShutdownSandboxResponse, error) {
	return &sandboxv1.ShutdownSandboxResponse{}, p.shutdown()
}

func (p pods) metrics(_ context.Context, r *sandboxv1.SandboxMetricsRequest) (*sandboxv1.SandboxMetricsResponse, error) {
	stats, err := p.sandbox.PodStats()
	if err != nil {
		return nil, err
	}
	data, err := metrics(stats)
	if err != nil {
		return nil, err
	}
	return &sandboxv1.SandboxMetricsResponse{Metrics: &types.Metric{
		ID: r.SandboxID, Timestamp: timestamppb.New(time.Now()), Data: data,
	}}, nil
}

// update says that a running VM's size stays as it is, which engines tolerate.
func (p pods) update(context.Context, *sandboxv1.UpdateSandboxRequest) (*sandboxv1.UpdateSandboxResponse, error) {
	return nil, fmt.Errorf("change a running sandbox: %w", errdefs.ErrNotImplemented)
}
