// Package boot turns the kernel's freshly started init into a place where containers can be made: mounts, root,
// limits, loopback. It is called once, by the agent as PID 1, and does nothing that can wait: every millisecond
// here is one of every container's start.
package boot

import (
	"sync"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	"golang.org/x/sys/unix"
)

// Marks is the timeline of the boot, on CLOCK_BOOTTIME.
type Marks struct {
	mu   sync.Mutex
	list []*agentv1.Mark
}

// Add marks this moment.
func (m *Marks) Add(name string) {
	var ts unix.Timespec
	// CLOCK_BOOTTIME is there since Linux 2.6.39.
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = append(m.list, &agentv1.Mark{Name: name, Nanoseconds: uint64(ts.Nano())})
}

// List is the marks so far.
func (m *Marks) List() []*agentv1.Mark {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]*agentv1.Mark(nil), m.list...)
}
