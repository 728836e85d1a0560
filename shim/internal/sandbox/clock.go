package sandbox

import (
	"context"
	"time"

	"github.com/containerd/log"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
)

// clockTolerance is how far the guest's clock may be off before it is moved.
const clockTolerance = 5 * time.Millisecond

// keepClock keeps the guest's wall clock with the host's: it is set right at once, and then looked at in intervals, as
// the host's is steered and the guest's is not. A VM that sleeps is left to; Resume sets its clock.
func (s *Sandbox) keepClock(v *vm, interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		if !v.asleep() {
			if err := v.syncClock(v.ctx); err != nil && v.ctx.Err() == nil {
				log.L.WithError(err).WithField("id", s.ID).Warn("keep the guest's clock")
			}
		}
		select {
		case <-ticker.C:
		case <-v.ctx.Done():
			return
		}
	}
}

// syncClock measures how far the guest's clock is off, to half of what the question takes, and moves it.
func (v *vm) syncClock(ctx context.Context) error {
	before := time.Now()
	r, err := v.agent.SyncClock(ctx, &agentv1.SyncClockRequest{})
	if err != nil {
		return err
	}
	took := time.Since(before)
	offset := before.Add(took / 2).Sub(time.Unix(0, r.Now))
	if offset.Abs() < max(clockTolerance, took/2) {
		return nil
	}
	_, err = v.agent.SyncClock(ctx, &agentv1.SyncClockRequest{Offset: int64(offset)})
	return err
}

func (v *vm) asleep() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.sleeping
}
