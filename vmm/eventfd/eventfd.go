// Package eventfd wraps eventfd(2) for use between KVM, the devices and the Go scheduler.
//
// The descriptor is non-blocking, and registered with the runtime's poller from the first Wait on: a goroutine in Wait costs
// no thread, and an eventfd that somebody else waits on, such as the host's kernel, does not wake this process.
package eventfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrCancelled is returned by Wait after Cancel.
var ErrCancelled = errors.New("eventfd: wait cancelled")

// EventFD is a counter that one side signals and the other waits on. All methods may be called at any time, from
// any goroutine; after Close they return errors.
type EventFD struct {
	fd int

	mu        sync.Mutex // fd is open while it is held and closed is not set
	file      *os.File   // of fd; nil before the first Wait
	cancelled bool
	closed    bool
}

// New returns an eventfd with a count of zero.
func New() (*EventFD, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	return FromFD(fd), nil
}

// FromFD takes ownership of an eventfd, such as one donated by a vhost-user front end.
func FromFD(fd int) *EventFD {
	_ = unix.SetNonblock(fd, true)
	return &EventFD{fd: fd}
}

// FD is the descriptor, for ioctls; it stays owned by e.
func (e *EventFD) FD() int { return e.fd }

// Signal adds one to the count. A count that is already at its maximum has been signalled anyway.
func (e *EventFD) Signal() error {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return fmt.Errorf("signal eventfd: %w", os.ErrClosed)
	}
	if _, err := unix.Write(e.fd, one[:]); err != nil && !errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("signal eventfd: %w", err)
	}
	return nil
}

// Wait blocks until the count is not zero, and sets it to zero. ErrCancelled after Cancel, os.ErrClosed after
// Close.
func (e *EventFD) Wait() error {
	f, err := e.polled()
	if err != nil {
		return err
	}
	var b [8]byte
	_, err = f.Read(b[:])
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ErrCancelled
	}
	return err
}

func (e *EventFD) polled() (*os.File, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, os.ErrClosed
	}
	if e.file == nil {
		e.file = os.NewFile(uintptr(e.fd), "eventfd")
		e.setDeadline()
	}
	return e.file, nil
}

// Cancel makes Wait return ErrCancelled, now and until Rearm.
func (e *EventFD) Cancel() { e.cancel(true) }

// Rearm undoes Cancel.
func (e *EventFD) Rearm() { e.cancel(false) }

func (e *EventFD) cancel(on bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cancelled = on
	if e.file != nil {
		e.setDeadline()
	}
}

func (e *EventFD) setDeadline() {
	var at time.Time
	if e.cancelled {
		at = time.Unix(1, 0)
	}
	_ = e.file.SetReadDeadline(at)
}

// Close releases the descriptor and wakes the waiter.
func (e *EventFD) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		return os.ErrClosed
	case e.file != nil:
		e.closed = true
		return e.file.Close()
	default:
		e.closed = true
		return unix.Close(e.fd)
	}
}
