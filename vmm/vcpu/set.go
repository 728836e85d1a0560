// Package vcpu runs the vCPUs of one machine, each on an operating system thread of its own.
//
// A Set is made by the machine from prepared vCPUs and two buses. Guest accesses go to the buses on the vCPU's
// thread; the path from a guest's exit back into the guest takes no lock, sends on no channel and allocates
// nothing. It knows nothing of devices or of what a guest looks like, and never exits the process: however a
// guest ends, the answer is an End.
package vcpu

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/huskvm/husk/vmm/kvm"
)

// CPU is one virtual processor, as *kvm.VCPU is. All methods but SetImmediateExit are called from the thread that
// runs it.
type CPU interface {
	Run() error
	SetImmediateExit(on bool)
	Reason() kvm.ExitReason
	MMIO() kvm.MMIO
	PIO() kvm.PIO
	FailEntry() kvm.FailEntry
	InternalError() kvm.InternalError
	SystemEvent() kvm.SystemEvent
	Resumed() error
	Describe() string
}

// Bus serves accesses of an address space; false when nobody is at the address.
type Bus interface {
	Read(addr uint64, p []byte) bool
	Write(addr uint64, p []byte) bool
}

// ErrEnded is returned for what can't be done because the guest has ended.
var ErrEnded = errors.New("the guest has ended")

// errNotStarted is a mistake of the caller.
var errNotStarted = errors.New("the vCPUs are not started")

// Set is all vCPUs of a machine. They start, pause and end together.
//
//	New ── Start ──▶ running ◀── Pause/Resume ──▶ paused
//	                    └──────── End, Stop ─────────┴──▶ ended
//
// After Done is closed no method touches a CPU any more, so the CPUs may be closed then, and not before. A Set
// that was never started needs no Stop.
type Set struct {
	mmio, ports Bus
	runners     []*runner
	end         atomic.Pointer[End]
	started     sync.Once
	done        chan struct{}

	// lifecycle makes Pause and Resume exclude each other; End and Stop go past it.
	lifecycle sync.Mutex
	running   atomic.Bool
}

// NewSet returns the set of cpus, not yet started. The set uses them until Done.
func NewSet(cpus []CPU, mmio, ports Bus) *Set {
	s := &Set{mmio: mmio, ports: ports, done: make(chan struct{})}
	for i, c := range cpus {
		s.runners = append(s.runners, newRunner(s, i, c))
	}
	return s
}

// Start lets all vCPUs run. Further calls do nothing.
func (s *Set) Start() {
	s.started.Do(func() {
		var all sync.WaitGroup
		for _, r := range s.runners {
			all.Go(r.run)
		}
		s.running.Store(true)
		go func() {
			all.Wait()
			close(s.done)
		}()
	})
}

// Pause returns once no vCPU runs, or with ErrEnded. Pausing twice is the same as once.
func (s *Set) Pause() error {
	if !s.running.Load() {
		return errNotStarted
	}
	s.lifecycle.Lock()
	defer s.lifecycle.Unlock()
	for _, r := range s.runners {
		r.ask(pause)
	}
	for _, r := range s.runners {
		if !r.waitParked() {
			return ErrEnded
		}
	}
	return nil
}

// Resume lets paused vCPUs run again, and tells the guest that it was stopped.
func (s *Set) Resume() error {
	if !s.running.Load() {
		return errNotStarted
	}
	s.lifecycle.Lock()
	defer s.lifecycle.Unlock()
	if s.end.Load() != nil {
		return ErrEnded
	}
	for _, r := range s.runners {
		r.ask(run)
	}
	return nil
}

// End asks every vCPU to end, for the reason e unless there is an earlier one. It may be called from anywhere,
// a bus handler included, and doesn't wait.
func (s *Set) End(e End) {
	s.end.CompareAndSwap(nil, &e)
	for _, r := range s.runners {
		r.ask(stop)
	}
}

// Stop ends the guest from outside and waits until no vCPU runs.
func (s *Set) Stop() {
	s.End(End{Reason: Stopped, CPU: NoCPU})
	s.Start() // what was never started ends at once, by the same way
	<-s.done
}

// Done is closed when all vCPUs have ended.
func (s *Set) Done() <-chan struct{} { return s.done }

// Result is why the guest ended; after Done.
func (s *Set) Result() End {
	if e := s.end.Load(); e != nil {
		return *e
	}
	return End{Reason: Stopped, CPU: NoCPU}
}

// Exits counts, over all vCPUs, how often the guest left KVM_RUN, by reason.
func (s *Set) Exits() map[string]uint64 {
	sum := make(map[string]uint64)
	for _, r := range s.runners {
		for reason := range r.exits {
			if n := r.exits[reason].Load(); n != 0 {
				sum[kvm.ExitReason(reason).String()] += n
			}
		}
	}
	return sum
}
