package sandbox

import (
	"syscall"
	"time"

	"github.com/containerd/log"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	vmmv1 "github.com/huskvm/husk/proto/husk/vmm/v1"
)

// guest is what the containers see of the VM.
type guest struct {
	agentv1.AgentService
	vm    *vm
	first bool // of the VM's containers
}

// Outcome implements container.Guest.
func (g guest) Outcome(cause error) uint32 {
	v := g.vm
	select {
	case <-v.ctx.Done():
	case <-time.After(goneTime):
		log.L.WithError(cause).Error("the guest's agent is of no use any more; ending the VM")
		_ = v.machine.Kill()
		<-v.ctx.Done()
		return guestDied
	}
	return v.outcome()
}

// What a container may take to end after SIGKILL, and the agent to answer then. A guest that waits for a processor has
// longer. The agent itself keeps an exit back for half a minute, while nobody takes the container's output.
const (
	insistTime = time.Minute
	answerTime = 10 * time.Second
)

// Insist implements container.Guest. A pod's further container may be past killing as it would be on the host, waiting for a
// file system; that does not end the others, unless the agent is silent as well.
func (g guest) Insist(id string, done <-chan struct{}) { g.insist(id, done, insistTime) }

func (g guest) insist(id string, done <-chan struct{}, timeout time.Duration) {
	v := g.vm
	ctx, cancel := v.within(v.ctx, timeout)
	defer cancel()
	select {
	case <-done:
		return
	case <-ctx.Done():
	}
	if v.ctx.Err() != nil {
		return
	}
	l := log.L.WithField("id", id)
	if !g.first && g.answers(id) {
		l.Warn("SIGKILL does not end the container, though the guest is well")
		return
	}
	l.Error("SIGKILL does not end the container; ending the VM")
	_ = v.machine.Kill()
}

func (g guest) answers(id string) bool {
	ctx, cancel := g.vm.within(g.vm.ctx, answerTime)
	defer cancel()
	_, err := g.Stats(ctx, &agentv1.StatsRequest{ContainerId: id})
	return err == nil
}

// Exit statuses of processes that their VM took along.
const (
	vmKilled  = 128 + uint32(syscall.SIGKILL)
	guestDied = 255
)

// outcome tells a VM that was killed from one that died by itself. The VM must be gone.
func (v *vm) outcome() uint32 {
	end := v.machine.Status()
	switch {
	case v.stopping.Load(), v.oomKilled.Load(), end.Guest.GetReason() == vmmv1.WaitResponse_REASON_KILLED:
		return vmKilled
	case end.Guest != nil:
		return guestDied
	case end.Process.Signaled():
		switch end.Process.Signal() {
		case syscall.SIGKILL, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT:
			return vmKilled
		}
	}
	return guestDied
}
