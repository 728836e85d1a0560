package sandbox

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/errdefs/pkg/errgrpc"

	vmmv1 "github.com/huskvm/husk/proto/husk/vmm/v1"
)

// addThread gives a further container of a pod a pid on the host: the id of a thread of the VMM, as the VMM's own is the
// first container's. By its pid the engine names the container whose processes another one is to see. Whoever looks it
// up finds what he finds of the VMM.
func (v *vm) addThread(ctx context.Context) (uint32, error) {
	r, err := v.machine.API().AddThread(ctx, &vmmv1.AddThreadRequest{})
	if err != nil {
		return 0, v.explain(fmt.Errorf("start a thread of the VMM for the container: %w", errgrpc.ToNative(err)))
	}
	// What the VMM says may be the guest's word.
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/task/%d", v.machine.PID(), r.Id)); err != nil {
		return 0, fmt.Errorf("find the VMM's thread for the container: %w", err)
	}
	return r.Id, nil
}

// pids are the ids of the sandbox's containers by the pids that stand for them.
func (s *Sandbox) pids(v *vm) map[uint32]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make(map[uint32]string)
	for id, m := range s.containers {
		if m.Container != nil {
			ids[m.PID] = id
		}
	}
	ids[uint32(v.machine.PID())] = s.ID
	return ids
}
