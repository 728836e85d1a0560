package vcpu

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/kvm"
)

// exit is one thing a fake CPU's guest does.
type exit struct {
	reason kvm.ExitReason
	mmio   kvm.MMIO
	pio    kvm.PIO
	event  kvm.SystemEvent
	err    error
}

// fakeCPU plays exits, then stays in the guest until it is kicked. Like KVM it comes back from Run with EINTR for
// as long as immediate is set, and for a signal without a meaning now and then.
type fakeCPU struct {
	exits     []exit
	now       exit
	immediate atomic.Bool
	inGuest   atomic.Bool
	resumed   atomic.Int32
	spurious  int
	runs      atomic.Int64
}

func (c *fakeCPU) Run() error {
	c.runs.Add(1)
	if c.immediate.Load() {
		return unix.EINTR
	}
	if len(c.exits) > 0 {
		c.now, c.exits = c.exits[0], c.exits[1:]
		return c.now.err
	}
	if c.spurious > 0 && c.runs.Load()%int64(c.spurious) == 0 {
		return unix.EINTR
	}
	c.inGuest.Store(true)
	defer c.inGuest.Store(false)
	for !c.immediate.Load() {
		if n, _ := unix.Poll(nil, 1); n < 0 && c.spurious > 0 {
			break
		}
	}
	return unix.EINTR
}

func (c *fakeCPU) SetImmediateExit(on bool)         { c.immediate.Store(on) }
func (c *fakeCPU) Reason() kvm.ExitReason           { return c.now.reason }
func (c *fakeCPU) MMIO() kvm.MMIO                   { return c.now.mmio }
func (c *fakeCPU) PIO() kvm.PIO                     { return c.now.pio }
func (c *fakeCPU) FailEntry() kvm.FailEntry         { return kvm.FailEntry{HardwareReason: 0x80000021} }
func (c *fakeCPU) InternalError() kvm.InternalError { return kvm.InternalError{Suberror: 1} }
func (c *fakeCPU) SystemEvent() kvm.SystemEvent     { return c.now.event }
func (c *fakeCPU) Resumed() error                   { c.resumed.Add(1); return nil }
func (c *fakeCPU) Describe() string                 { return "rip 0x1234" }

// recorder is a bus that answers reads below 0x1000 with 0x5a and keeps what is written.
type recorder struct{ written []byte }

func (b *recorder) Read(addr uint64, p []byte) bool {
	for i := range p {
		p[i] = 0x5a
	}
	return addr < 0x1000
}

func (b *recorder) Write(_ uint64, p []byte) bool {
	b.written = append(b.written, p...)
	return true
}

func wait(t *testing.T, s *Set) End {
	t.Helper()
	select {
	case <-s.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the vCPUs did not end")
	}
	return s.Result()
}

func TestAccessesGoToTheirBus(t *testing.T) {
	read, nobody := make([]byte, 4), make([]byte, 2)
	in := make([]byte, 6)
	c := &fakeCPU{exits: []exit{
		{reason: kvm.ExitMMIO, mmio: kvm.MMIO{Addr: 0x10, Data: read}},
		{reason: kvm.ExitMMIO, mmio: kvm.MMIO{Addr: 0x1000, Data: nobody}},
		{reason: kvm.ExitMMIO, mmio: kvm.MMIO{Addr: 0x20, Data: []byte{7, 8}, Write: true}},
		{reason: kvm.ExitIO, pio: kvm.PIO{Port: 0x60, Size: 2, Data: in}},
		{reason: kvm.ExitIO, pio: kvm.PIO{Port: 0x3f8, Size: 1, Data: []byte("hello"), Out: true}},
		{reason: kvm.ExitSystemEvent, event: kvm.SystemEvent{Type: kvm.EventShutdown}},
	}}
	mmio, ports := &recorder{}, &recorder{}
	s := NewSet([]CPU{c}, mmio, ports)
	s.Start()
	if e := wait(t, s); e.Reason != PowerOff || e.CPU != 0 {
		t.Errorf("ended with %v", e)
	}
	if string(read) != "ZZZZ" || string(in) != "ZZZZZZ" {
		t.Errorf("read %q and %q", read, in)
	}
	if nobody[0] != 0xff || nobody[1] != 0xff {
		t.Errorf("an address without a device read as %x", nobody)
	}
	if string(mmio.written) != "\x07\x08" || string(ports.written) != "hello" {
		t.Errorf("written %q and %q", mmio.written, ports.written)
	}
	if n := s.Exits(); n["mmio"] != 3 || n["io"] != 2 || n["system-event"] != 1 {
		t.Errorf("counted %v", n)
	}
}

func TestEveryEndHasItsReason(t *testing.T) {
	for _, c := range []struct {
		exit   exit
		reason Reason
		detail string
	}{
		{exit{reason: kvm.ExitShutdown}, TripleFault, "rip 0x1234"},
		{exit{reason: kvm.ExitSystemEvent, event: kvm.SystemEvent{Type: kvm.EventReset}}, Reset, ""},
		{exit{reason: kvm.ExitSystemEvent, event: kvm.SystemEvent{Type: kvm.EventCrash}}, Crashed, ""},
		{exit{reason: kvm.ExitSystemEvent, event: kvm.SystemEvent{Type: 99}}, UnknownExit, "99"},
		{exit{reason: kvm.ExitInternalError}, InternalError, "emulation failed"},
		{exit{reason: kvm.ExitFailEntry}, EntryFailed, "0x80000021"},
		{exit{reason: kvm.ExitHLT}, UnknownExit, "hlt"},
		{exit{reason: 4000}, UnknownExit, "exit-4000"},
		{exit{err: unix.EFAULT}, RunFailed, "bad address"},
	} {
		// The sibling is in the guest and must be taken out of it.
		s := NewSet([]CPU{&fakeCPU{}, &fakeCPU{exits: []exit{c.exit}}}, &recorder{}, &recorder{})
		s.Start()
		e := wait(t, s)
		if e.Reason != c.reason || e.CPU != 1 || !strings.Contains(e.Detail, c.detail) {
			t.Errorf("%v: got %v, want %v with %q", c.exit.reason, e, c.reason, c.detail)
		}
	}
}

func TestTheFirstEndIsKept(t *testing.T) {
	s := NewSet([]CPU{&fakeCPU{}, &fakeCPU{}}, &recorder{}, &recorder{})
	s.Start()
	s.End(End{Reason: Reset, CPU: NoCPU})
	s.Stop()
	if e := s.Result(); e.Reason != Reset {
		t.Errorf("got %v", e)
	}
}

// handlerBus calls f for every write.
type handlerBus struct{ f func() }

func (b handlerBus) Read(uint64, []byte) bool  { return false }
func (b handlerBus) Write(uint64, []byte) bool { b.f(); return true }

func TestABusHandlerMayEndTheGuest(t *testing.T) {
	c := &fakeCPU{exits: []exit{{reason: kvm.ExitIO, pio: kvm.PIO{Port: 0x64, Size: 1, Data: []byte{0xfe}, Out: true}}}}
	var s *Set
	s = NewSet([]CPU{c, &fakeCPU{}}, &recorder{}, handlerBus{func() { s.End(End{Reason: Reset, CPU: NoCPU}) }})
	s.Start()
	if e := wait(t, s); e.Reason != Reset {
		t.Errorf("got %v", e)
	}
	if n := c.runs.Load(); n != 1 {
		t.Errorf("entered the guest %d times, want once", n)
	}
}

// A kick that is lost leaves a vCPU in the guest for good: Pause then never returns.
func TestNoKickIsLost(t *testing.T) {
	cpus := []*fakeCPU{{spurious: 2}, {spurious: 3}, {}}
	s := NewSet([]CPU{cpus[0], cpus[1], cpus[2]}, &recorder{}, &recorder{})
	s.Start()
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for range 500 {
			if err := s.Pause(); err != nil {
				t.Errorf("pause: %v", err)
				return
			}
			for i, c := range cpus {
				if c.inGuest.Load() {
					t.Errorf("vCPU %d runs while paused", i)
				}
			}
			if err := s.Resume(); err != nil {
				t.Errorf("resume: %v", err)
				return
			}
		}
	}()
	select {
	case <-finished:
	case <-time.After(60 * time.Second):
		t.Fatal("a vCPU was not taken out of the guest")
	}
	// Which of the pauses a thread notices is the scheduler's choice, but it goes on after the last one.
	for deadline := time.Now().Add(60 * time.Second); cpus[2].resumed.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the guest was never told that it was stopped")
		}
	}
	s.Stop()
	if e := s.Result(); e.Reason != Stopped {
		t.Errorf("got %v", e)
	}
}

func TestPauseTwiceIsPauseOnce(t *testing.T) {
	s := NewSet([]CPU{&fakeCPU{}}, &recorder{}, &recorder{})
	s.Start()
	defer s.Stop()
	for range 2 {
		if err := s.Pause(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
}

func TestStopEndsPausedAndNeverStarted(t *testing.T) {
	s := NewSet([]CPU{&fakeCPU{}, &fakeCPU{}}, &recorder{}, &recorder{})
	s.Start()
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	c := &fakeCPU{}
	s = NewSet([]CPU{c}, &recorder{}, &recorder{})
	s.Stop()
	if c.runs.Load() != 0 {
		t.Error("a set stopped before its start entered the guest")
	}
}

func TestPauseAndResumeOfAnEndedGuestSaySo(t *testing.T) {
	s := NewSet([]CPU{&fakeCPU{}}, &recorder{}, &recorder{})
	if err := s.Pause(); err == nil {
		t.Error("paused before the start")
	}
	s.Start()
	s.Stop()
	if err := s.Pause(); !errors.Is(err, ErrEnded) {
		t.Errorf("pause: %v", err)
	}
	if err := s.Resume(); !errors.Is(err, ErrEnded) {
		t.Errorf("resume: %v", err)
	}
}

func TestPauseReturnsWhenTheGuestEndsMeanwhile(t *testing.T) {
	for range 50 {
		s := NewSet([]CPU{&fakeCPU{}, &fakeCPU{}}, &recorder{}, &recorder{})
		s.Start()
		go s.Stop()
		if err := s.Pause(); err != nil && !errors.Is(err, ErrEnded) {
			t.Fatal(err)
		}
		wait(t, s)
	}
}
