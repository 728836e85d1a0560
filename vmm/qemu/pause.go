package qemu

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Pause stops QEMU with all its threads, and returns when none of them runs. QMP's own stop would take the devices
// from their back ends, and with them the guest's connections and open files.
func (p *Process) Pause() error {
	if err := p.signal(unix.SIGSTOP); err != nil {
		return err
	}
	for {
		// Not reaped here, so an exit is seen as well.
		err := unix.Waitid(unix.P_PID, p.PID(), nil, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil && !errors.Is(err, unix.ECHILD) {
			return fmt.Errorf("wait for QEMU %d to stop: %w", p.PID(), err)
		}
		return nil
	}
}

// Resume lets them run again.
func (p *Process) Resume() error { return p.signal(unix.SIGCONT) }

func (p *Process) signal(s syscall.Signal) error {
	err := p.process.Signal(s)
	if errors.Is(err, os.ErrProcessDone) {
		err = errGone
	}
	if err != nil {
		return fmt.Errorf("signal QEMU %d: %w", p.PID(), err)
	}
	return nil
}
