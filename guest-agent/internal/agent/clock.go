package agent

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// tolerance is how far the clock may be off: less than the call itself may take is not worth a jump.
const tolerance = time.Millisecond

// syncClock sets the wall clock to now, Unix time in nanoseconds, unless it is close or now is 0.
func syncClock(now int64) error {
	if now == 0 || time.Since(time.Unix(0, now)).Abs() < tolerance {
		return nil
	}
	ts := unix.NsecToTimespec(now)
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	return nil
}
