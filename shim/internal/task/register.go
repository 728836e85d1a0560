package task

import (
	"context"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// ConsoleService is the name under which the shim also serves husk's command line tool.
const ConsoleService = "husk.shim.v1.Sandbox"

// Register serves the task API under both its versions, whose messages are the same on the wire.
func (s *Service) Register(server *ttrpc.Server) {
	methods := map[string]ttrpc.Method{
		"State":      method(s.state),
		"Create":     method(s.create),
		"Start":      method(s.start),
		"Delete":     method(s.delete),
		"Pids":       method(s.pids),
		"Pause":      method(s.pause),
		"Resume":     method(s.resume),
		"Checkpoint": method(s.checkpoint),
		"Kill":       method(s.kill),
		"Exec":       method(s.exec),
		"ResizePty":  method(s.resizePty),
		"CloseIO":    method(s.closeIO),
		"Update":     method(s.update),
		"Wait":       method(s.wait),
		"Stats":      method(s.stats),
		"Connect":    method(s.connect),
		"Shutdown":   method(s.shutdownIfIdle),
	}
	server.RegisterService("containerd.task.v2.Task", &ttrpc.ServiceDesc{Methods: methods})
	server.RegisterService("containerd.task.v3.Task", &ttrpc.ServiceDesc{Methods: methods})
	server.RegisterService(ConsoleService, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"Console": method(s.console),
	}})
}

// method makes f a ttrpc method. It is the one place where errors become what the wire has for them.
func method[Req, Resp any](f func(context.Context, *Req) (*Resp, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		request := new(Req)
		if err := unmarshal(request); err != nil {
			return nil, err
		}
		response, err := f(ctx, request)
		if err != nil {
			return nil, errgrpc.ToGRPC(err)
		}
		return response, nil
	}
}

func (s *Service) console(ctx context.Context, _ *emptypb.Empty) (*wrapperspb.BytesValue, error) {
	data, err := s.sandbox.Console(ctx)
	if err != nil {
		return nil, err
	}
	return wrapperspb.Bytes(data), nil
}
