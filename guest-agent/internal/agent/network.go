package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/huskvm/husk/guest-agent/internal/forward"
	"github.com/huskvm/husk/guest-agent/internal/listeners"
	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ConfigureNetwork configures the interfaces of the guest's own network namespace.
func (s *Service) ConfigureNetwork(_ context.Context, req *agentv1.ConfigureNetworkRequest) (*agentv1.ConfigureNetworkResponse, error) {
	if err := s.network.Configure(req); err != nil {
		return nil, translate(fmt.Errorf("configure the network: %w", err))
	}
	if req.GetTellListeners() {
		go s.tellListeners()
	}
	return &agentv1.ConfigureNetworkResponse{}, nil
}

func (s *Service) tellListeners() {
	err := listeners.Watch(func(all []listeners.Listener) {
		told := &agentv1.NextEventResponse_Listeners{}
		for _, l := range all {
			told.Listeners = append(told.Listeners, &agentv1.NextEventResponse_Listener{
				Ip: l.Addr().AsSlice(), Port: uint32(l.Port()), Udp: l.UDP,
			})
		}
		s.events.add(&agentv1.NextEventResponse{Event: &agentv1.NextEventResponse_Listeners_{Listeners: told}})
	})
	slog.Error("the host is not told any more who listens", "error", err)
}

// Forward connects a stream with a port of the guest's own network namespace.
func (s *Service) Forward(ctx context.Context, req *agentv1.ForwardRequest) (*agentv1.ForwardResponse, error) {
	ip, ok := netip.AddrFromSlice(req.GetIp())
	if !ok || req.GetPort() == 0 || req.GetPort() > 1<<16-1 {
		return nil, status.Errorf(codes.InvalidArgument, "%x port %d is no address", req.GetIp(), req.GetPort())
	}
	connect := forward.Connect
	if req.GetUdp() {
		connect = forward.Datagrams
	}
	to := netip.AddrPortFrom(ip, uint16(req.GetPort()))
	if err := connect(ctx, s.dial, to, req.GetStream()); err != nil {
		return nil, translate(err)
	}
	return &agentv1.ForwardResponse{}, nil
}

// RelayNames is a name server of the host's at the guest's loopback.
func (s *Service) RelayNames(ctx context.Context, req *agentv1.RelayNamesRequest) (*agentv1.RelayNamesResponse, error) {
	ip, ok := netip.AddrFromSlice(req.GetIp())
	if !ok || !ip.Is4() || !ip.IsLoopback() {
		return nil, status.Errorf(codes.InvalidArgument, "%x is no IPv4 address of the loopback", req.GetIp())
	}
	if err := forward.Names(ctx, s.dial, ip, req.GetPackets(), req.GetConnections()); err != nil {
		return nil, translate(err)
	}
	return &agentv1.RelayNamesResponse{}, nil
}
