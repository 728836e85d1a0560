// Package process starts the processes of containers through their stage, connects their standard streams to the
// host, and learns their true exit status. It is called by package container, on the agent's side.
package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Reaper collects every child of the agent, which as PID 1 has also those that others have left behind. It is
// the only one that waits: os/exec must not be used beside it.
type Reaper struct {
	mu      sync.Mutex
	waiters map[int]chan Ended
}

// Ended is how and when a child ended.
type Ended struct {
	Status unix.WaitStatus
	At     time.Time
}

var errReaped = errors.New("the child has ended already")

// NewReaper starts reaping until ctx is done.
func NewReaper(ctx context.Context) *Reaper {
	r := &Reaper{waiters: map[int]chan Ended{}}
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	go func() {
		defer signal.Stop(children)
		for {
			for r.reapOne() {
			}
			select {
			case <-children:
			case <-ctx.Done():
				return
			}
		}
	}()
	return r
}

// Adopt answers where the end of a child will be reported, once. It first calls prepare, while the number is sure to be
// the child's, since nobody is reaped. A child that was reaped before is errReaped.
func (r *Reaper) Adopt(pid, pidfd int, prepare func() error) (<-chan Ended, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := unix.PidfdSendSignal(pidfd, 0, nil, 0); err != nil {
		return nil, fmt.Errorf("%w: %w", errReaped, err)
	}
	if err := prepare(); err != nil {
		return nil, err
	}
	ended := make(chan Ended, 1)
	r.waiters[pid] = ended
	return ended, nil
}

// reapOne collects one child, if one has ended.
func (r *Reaper) reapOne() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var status unix.WaitStatus
	pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
	if err != nil {
		if errors.Is(err, unix.EINTR) {
			return true
		}
		if !errors.Is(err, unix.ECHILD) {
			slog.Error("wait for children", "error", err)
		}
		return false
	}
	if pid <= 0 {
		return false
	}
	if ended, ok := r.waiters[pid]; ok {
		delete(r.waiters, pid)
		ended <- Ended{Status: status, At: time.Now()}
	}
	return true
}

// Code is a wait status as shells and the host's clients write it: 0 to 255, or 128 and the signal.
func Code(s unix.WaitStatus) uint32 {
	if s.Signaled() {
		return 128 + uint32(s.Signal())
	}
	return uint32(s.ExitStatus())
}
