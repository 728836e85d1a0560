package main

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/huskvm/husk/test/host/internal/wire"
)

// timing collects when the parts of a run were done.
type timing struct {
	start time.Time

	mu    sync.Mutex
	marks []timingMark
}

type timingMark struct {
	name   string
	since  time.Duration // the program's start
	uptime time.Duration // the guest kernel's start; zero if the mark isn't the guest's
}

func newTiming() *timing { return &timing{start: time.Now()} }

func (t *timing) at(name string) { t.add(timingMark{name: name}) }

func (t *timing) guestAt(m wire.Mark) {
	t.add(timingMark{name: "guest: " + m.Name, uptime: time.Duration(m.UptimeMS) * time.Millisecond})
}

func (t *timing) add(m timingMark) {
	m.since = time.Since(t.start)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.marks = append(t.marks, m)
}

func (t *timing) print(w io.Writer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := time.Duration(0)
	for _, m := range t.marks {
		fmt.Fprintf(w, "host: %-16s %7.2fs  +%.2fs", m.name, m.since.Seconds(), (m.since - last).Seconds())
		if m.uptime != 0 {
			fmt.Fprintf(w, "  (kernel's clock %.2fs)", m.uptime.Seconds())
		}
		fmt.Fprintln(w)
		last = m.since
	}
}
