package legacy

import (
	"sync/atomic"
	"time"
)

// Registers of an MC146818.
const (
	clockSeconds = 0x00
	clockMinutes = 0x02
	clockHours   = 0x04
	clockWeekday = 0x06
	clockDay     = 0x07
	clockMonth   = 0x08
	clockYear    = 0x09
	clockA       = 0x0a
	clockB       = 0x0b
	clockC       = 0x0c
	clockD       = 0x0d
	clockCentury = 0x32

	clockA32kHz = 0x26 // oscillator on, 1024 Hz, no update in progress
	clockB24h   = 0x02 // 24 hours, BCD
	clockDValid = 0x80 // the battery is good
)

// Clock is the clock chip with the host's time in UTC, for reading only. A guest under KVM takes its time from
// kvmclock; one that doesn't know it reads here, and would otherwise wait for an update that never ends.
type Clock struct {
	now   func() time.Time
	index atomic.Uint32
}

// NewClock returns a clock that shows now.
func NewClock(now func() time.Time) *Clock { return &Clock{now: now} }

// Read serves the data port; the index port can't be read.
func (c *Clock) Read(off uint64, p []byte) {
	for i := range p {
		p[i] = 0xff
	}
	if off == 1 && len(p) == 1 {
		p[0] = c.register(c.index.Load())
	}
}

// Write takes the index of the register to read. The top bit masks NMIs on a PC, and nothing here.
func (c *Clock) Write(off uint64, p []byte) {
	if off == 0 && len(p) == 1 {
		c.index.Store(uint32(p[0] & 0x7f))
	}
}

func (c *Clock) register(index uint32) byte {
	t := c.now().UTC()
	switch index {
	case clockSeconds:
		return bcd(t.Second())
	case clockMinutes:
		return bcd(t.Minute())
	case clockHours:
		return bcd(t.Hour())
	case clockWeekday:
		return bcd(int(t.Weekday()) + 1)
	case clockDay:
		return bcd(t.Day())
	case clockMonth:
		return bcd(int(t.Month()))
	case clockYear:
		return bcd(t.Year() % 100)
	case clockCentury:
		return bcd(t.Year() / 100)
	case clockA:
		return clockA32kHz
	case clockB:
		return clockB24h
	case clockD:
		return clockDValid
	}
	return 0 // alarms, clockC, and memory that nobody set
}

func bcd(n int) byte { return byte(n/10%10<<4 | n%10) }
