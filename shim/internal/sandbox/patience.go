package sandbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/huskvm/husk/shim/internal/footprint"
)

// How often is looked whether the guest gets on.
const (
	lookTime    = time.Second
	minLookTime = 50 * time.Millisecond
)

// within bounds a boot by timeout. What the guest waits for a processor does not count: on a busy host a boot may be slow,
// and a guest that hangs either runs all the time or does not want to.
func (v *vm) within(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if v.spend(ctx, timeout) {
			cancel(tooLate(timeout))
		}
	}()
	return ctx, func() {
		cancel(context.Canceled)
		<-ended
	}
}

// spend returns when the guest has had budget to run in, or, with false, when ctx is done.
func (v *vm) spend(ctx context.Context, budget time.Duration) bool {
	before, _ := footprint.Progress(v.machine.PID())
	for left := budget; left > 0; {
		look := min(left, lookTime)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(max(look, minLookTime)):
		}
		ran, willing := footprint.Progress(v.machine.PID())
		if willing {
			look = min(look, max(ran-before, 0)) // less when a process of them has ended
		}
		left -= look
		before = ran
	}
	return true
}

// tooLate is the error of a guest that has had so long.
type tooLate time.Duration

func (t tooLate) Error() string {
	return fmt.Sprintf("it was not ready within %s (boot_timeout)", time.Duration(t))
}

// inTime gives an error of a boot that was too late its cause.
func inTime(ctx context.Context, err error) error {
	var late tooLate
	if err == nil || errors.As(err, &late) || !errors.As(context.Cause(ctx), &late) {
		return err
	}
	return fmt.Errorf("%s: %w", err, late)
}
