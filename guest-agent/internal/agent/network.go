package agent

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/huskvm/husk/guest-agent/internal/forward"
	"github.com/huskvm/husk/guest-agent/internal/netcfg"
	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ConfigureNetwork configures the interfaces of the guest's own network namespace.
func (s *Service) ConfigureNetwork(_ context.Context, req *agentv1.ConfigureNetworkRequest) (*agentv1.ConfigureNetworkResponse, error) {
	if err := netcfg.Configure(req); err != nil {
		return nil, translate(fmt.Errorf("configure the network: %w", err))
	}
	return &agentv1.ConfigureNetworkResponse{}, nil
}

// Forward connects a stream with a port of the guest's own network namespace.
func (s *Service) Forward(ctx context.Context, req *agentv1.ForwardRequest) (*agentv1.ForwardResponse, error) {
	ip, ok := netip.AddrFromSlice(req.GetIp())
	if !ok || req.GetPort() == 0 || req.GetPort() > 1<<16-1 {
		return nil, status.Errorf(codes.InvalidArgument, "%x port %d is no address", req.GetIp(), req.GetPort())
	}
	to := netip.AddrPortFrom(ip, uint16(req.GetPort()))
	if err := forward.Connect(ctx, s.dial, to, req.GetStream()); err != nil {
		return nil, translate(err)
	}
	return &agentv1.ForwardResponse{}, nil
}
