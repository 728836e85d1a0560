package virtio

import (
	"sync/atomic"

	"github.com/huskvm/husk/vmm/virtio/queue"
)

// Kick is the driver's doorbell of one queue.
type Kick interface {
	// Wait blocks until the driver has rung, or returns an error after Cancel.
	Wait() error
	Cancel()
	Rearm()
}

// Virtqueue is a queue with its two notifications: the driver's kick and the device's interrupt.
//
// One goroutine at a time calls Next; Return may be called from any.
type Virtqueue struct {
	queue     *queue.Queue
	kick      Kick
	interrupt func()
	stopped   atomic.Bool
	lend      func() Eventfds // nil when the transport has none
}

// Eventfds are the two notifications as descriptors, which stay the transport's.
type Eventfds struct{ Kick, Call int }

// NewVirtqueue arms kick and joins the three. interrupt must be safe for concurrent use.
func NewVirtqueue(q *queue.Queue, kick Kick, interrupt func()) *Virtqueue {
	kick.Rearm()
	return &Virtqueue{queue: q, kick: kick, interrupt: interrupt}
}

// Lendable says that the notifications are eventfds as well, which lend gives and from then on counts with.
func (v *Virtqueue) Lendable(lend func() Eventfds) { v.lend = lend }

// Lend gives the queue to somebody who serves it in the device's place, outside of this process: the host's kernel.
// The device itself does not use it meanwhile. False when that is not possible.
func (v *Virtqueue) Lend() (queue.Config, Eventfds, bool) {
	if v.lend == nil {
		return queue.Config{}, Eventfds{}, false
	}
	return v.queue.Config(), v.lend(), true
}

// Next returns the next chain the driver has made available, and blocks while there is none. The error is a
// *GuestError, or, after Stop, whatever Kick.Wait gave.
func (v *Virtqueue) Next() (*queue.Chain, error) {
	for !v.stopped.Load() { // a driver that never lets the queue run dry must not keep the device from stopping
		c, err := v.TryNext()
		if c != nil || err != nil {
			return c, err
		}
		if v.queue.EnableKicks() {
			continue // something came in between
		}
		if err := v.kick.Wait(); err != nil {
			return nil, err
		}
		v.queue.DisableKicks()
	}
	return nil, v.kick.Wait()
}

// TryNext is Next without blocking: nil when there is nothing.
func (v *Virtqueue) TryNext() (*queue.Chain, error) { return v.queue.Pop() }

// Return gives chains back to the driver, all at once, with what was written into them, and interrupts the driver
// if it wants that. The chains must not be used afterwards.
func (v *Virtqueue) Return(chains ...*queue.Chain) {
	if v.queue.Push(chains...) {
		v.interrupt()
	}
}

// Stop makes Next return an error, now and ever after. Chains already taken may still be returned.
func (v *Virtqueue) Stop() {
	v.kick.Cancel() // first: once stopped, Next relies on Wait's error
	v.stopped.Store(true)
}
