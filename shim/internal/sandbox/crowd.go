package sandbox

import (
	"github.com/containerd/log"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	vmmv1 "github.com/huskvm/husk/proto/husk/vmm/v1"
)

// keepRoom has the guest forget files when it remembers too many for the VMM.
func (s *Sandbox) keepRoom(v *vm) {
	for {
		if _, err := v.machine.API().Crowded(v.ctx, &vmmv1.CrowdedRequest{}); err != nil {
			return // the VM has ended
		}
		if _, err := v.agent.DropCaches(v.ctx, &agentv1.DropCachesRequest{}); err != nil && v.ctx.Err() == nil {
			log.L.WithError(err).WithField("id", s.ID).Warn("make room for more files")
		}
	}
}
