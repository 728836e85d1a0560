package agent

import (
	"context"
	"fmt"

	"github.com/huskvm/husk/guest-agent/internal/netcfg"
	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
)

// ConfigureNetwork configures the interfaces of the guest's own network namespace.
func (s *Service) ConfigureNetwork(_ context.Context, req *agentv1.ConfigureNetworkRequest) (*agentv1.ConfigureNetworkResponse, error) {
	if err := netcfg.Configure(req); err != nil {
		return nil, translate(fmt.Errorf("configure the network: %w", err))
	}
	return &agentv1.ConfigureNetworkResponse{}, nil
}
