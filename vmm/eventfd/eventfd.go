// Package eventfd wraps eventfd(2) for use between KVM, the devices and the Go scheduler.
//
// The descriptor is non-blocking and registered with the runtime's poller: a goroutine in Wait costs no thread.
package eventfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrCancelled is returned by Wait after Cancel.
var ErrCancelled = errors.New("eventfd: wait cancelled")

// EventFD is a counter that one side signals and the other waits on. All methods may be called at any time, from
// any goroutine; after Close they return errors.
type EventFD struct {
	file *os.File
	fd   int
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
	return &EventFD{file: os.NewFile(uintptr(fd), "eventfd"), fd: fd}
}

// FD is the descriptor, for ioctls; it stays owned by e.
func (e *EventFD) FD() int { return e.fd }

// Signal adds one to the count. A count that is already at its maximum has been signalled anyway.
func (e *EventFD) Signal() error {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	if _, err := e.file.Write(one[:]); err != nil && !errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("signal eventfd: %w", err)
	}
	return nil
}

// Wait blocks until the count is not zero, and sets it to zero. ErrCancelled after Cancel, os.ErrClosed after
// Close.
func (e *EventFD) Wait() error {
	var b [8]byte
	_, err := e.file.Read(b[:])
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ErrCancelled
	}
	return err
}

// Cancel makes Wait return ErrCancelled, now and until Rearm.
func (e *EventFD) Cancel() { _ = e.file.SetReadDeadline(time.Unix(1, 0)) }

// Rearm undoes Cancel.
func (e *EventFD) Rearm() { _ = e.file.SetReadDeadline(time.Time{}) }

// Close releases the descriptor and wakes the waiter.
func (e *EventFD) Close() error { return e.file.Close() }
