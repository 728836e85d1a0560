package agent

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// tolerance is how far the clock may be off at the handshake: less than the call itself may take is not worth a
	// jump.
	tolerance = time.Millisecond
	// slewed is the largest step back that is not made at once: programs trip over time that repeats. The kernel
	// takes half a millisecond a second.
	slewed = 500 * time.Millisecond
)

// setClock sets the wall clock to now, Unix time in nanoseconds, unless it is close or now is 0.
func setClock(now int64) error {
	if now == 0 || time.Since(time.Unix(0, now)).Abs() < tolerance {
		return nil
	}
	ts := unix.NsecToTimespec(now)
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	return nil
}

// moveClock adds offset to the wall clock, which it tells as it was before.
func moveClock(offset time.Duration) (now time.Time, err error) {
	now = time.Now()
	switch {
	case offset == 0:
	case offset < 0 && offset >= -slewed:
		t := unix.Timex{Modes: unix.ADJ_OFFSET_SINGLESHOT}
		t.Offset = offset.Microseconds()
		if _, err := unix.Adjtimex(&t); err != nil {
			return now, fmt.Errorf("slow the clock down: %w", err)
		}
	default:
		return now, setClock(time.Now().Add(offset).UnixNano())
	}
	return now, nil
}
