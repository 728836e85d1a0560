// Package marks records the moments of a start, so that one can see where the time goes.
package marks

import (
	"sync"

	"golang.org/x/sys/unix"
)

// Mark is one moment, in nanoseconds of the host's CLOCK_MONOTONIC: comparable between processes.
type Mark struct {
	Name        string
	Nanoseconds uint64
}

// List is an append-only list of marks. The zero value is ready; all methods are safe for concurrent use.
type List struct {
	mu    sync.Mutex
	marks []Mark
}

// Add records now under a name.
func (l *List) Add(name string) {
	m := Mark{Name: name, Nanoseconds: Now()}
	l.mu.Lock()
	l.marks = append(l.marks, m)
	l.mu.Unlock()
}

// All returns a copy, in the order of recording.
func (l *List) All() []Mark {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Mark(nil), l.marks...)
}

// Now reads CLOCK_MONOTONIC.
func Now() uint64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail for this clock
	return uint64(ts.Nano())
}
