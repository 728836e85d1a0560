package qemu

import (
	"bytes"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// counter reads the time stamp counter.
func counter() uint64

// counterRate measures the host's time stamp counter against its clock, in kHz, to some ten parts in a million. It is
// 0 where the counter does not run at a constant rate.
func counterRate() int {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil || !bytes.Contains(info, []byte("constant_tsc")) {
		return 0
	}
	c0, t0 := together()
	time.Sleep(5 * time.Millisecond)
	c1, t1 := together()
	if c1 <= c0 || t1 <= t0 {
		return 0
	}
	return int((float64(c1-c0)*1e6)/float64(t1-t0) + 0.5)
}

// together reads counter and clock, in ns, as close to each other as a few attempts get.
func together() (count uint64, ns int64) {
	best := ^uint64(0)
	for range 16 {
		var ts unix.Timespec
		before := counter()
		_ = unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &ts) // cannot fail for this clock
		after := counter()
		if d := after - before; d < best {
			best, count, ns = d, before+d/2, ts.Nano()
		}
	}
	return count, ns
}
