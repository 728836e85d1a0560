package vcpu

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/kvm"
)

// request is what a vCPU is asked to do. A stop is never taken back.
type request = uint32

const (
	run request = iota
	pause
	stop
)

// exitKinds bounds the exit counters; later reasons share the last one.
const exitKinds = 64

// runner is one vCPU and the thread it runs on.
type runner struct {
	set *Set
	id  int
	cpu CPU

	request atomic.Uint32 // written with mu held, read by the thread without
	exits   [exitKinds]atomic.Uint64

	mu       sync.Mutex
	changed  *sync.Cond // of request, parked, finished
	tid      int        // of the thread, while it may be in KVM_RUN
	parked   bool
	finished bool // the CPU is not touched any more
}

func newRunner(s *Set, id int, c CPU) *runner {
	r := &runner{set: s, id: id, cpu: c}
	r.changed = sync.NewCond(&r.mu)
	return r
}

// run is the thread's life. KVM wants one thread a vCPU, and a kick needs a thread to send its signal to.
func (r *runner) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The main thread's name is the process's. While it is held here, the next goroutine gets another.
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.run()
		}()
		<-done
		return
	}
	nameThread(fmt.Sprintf("vcpu %d", r.id))
	r.enter()
	defer r.leave()
	for {
		switch r.request.Load() {
		case pause:
			r.park()
			continue
		case stop:
			return
		}
		switch err := r.cpu.Run(); err {
		case nil:
			if end := r.dispatch(); end != nil {
				r.set.End(*end)
			}
		case unix.EINTR:
			// Cleared here and nowhere else. Whoever sets it has stored the request before, so a request whose
			// flag is lost by this line is seen by the next Load; a flag set after this line ends the next Run.
			r.cpu.SetImmediateExit(false)
			r.exits[kvm.ExitIntr].Add(1)
		case unix.EAGAIN:
			// A secondary processor was woken to be initialized.
		default:
			r.set.End(End{Reason: RunFailed, CPU: r.id, Detail: err.Error() + "\n" + r.cpu.Describe()})
		}
	}
}

func (r *runner) enter() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tid = unix.Gettid()
}

func (r *runner) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.finished = true
	r.changed.Broadcast()
}

// park stays until the request is no longer to pause.
func (r *runner) park() {
	r.mu.Lock()
	r.parked = true
	r.changed.Broadcast()
	for r.request.Load() == pause {
		r.changed.Wait()
	}
	r.parked = false
	goOn := r.request.Load() == run
	r.mu.Unlock()
	if goOn {
		// An old host can't tell; the guest then complains about a soft lockup and goes on.
		_ = r.cpu.Resumed()
	}
}

// waitParked returns true once the vCPU is paused, false when it has ended.
func (r *runner) waitParked() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for !r.parked && !r.finished {
		r.changed.Wait()
	}
	return r.parked && !r.finished
}

// ask stores a request and, unless the vCPU is to run, kicks it out of the guest. The order is the contract:
// request, flag, signal. The flag is for a thread that has checked its request but is not in KVM_RUN yet, the
// signal for one that is.
func (r *runner) ask(what request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.finished || r.request.Load() == stop {
		return
	}
	r.request.Store(what)
	r.changed.Broadcast()
	if what == run {
		return
	}
	r.cpu.SetImmediateExit(true)
	if r.tid != 0 {
		// SIGURG is what the Go runtime preempts with: its handler is there and does no harm.
		_ = unix.Tgkill(unix.Getpid(), r.tid, unix.SIGURG)
	}
}
