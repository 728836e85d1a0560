package qemu

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// cldStopped is CLD_STOPPED of sigaction(2): the child is stopped, and not at its end.
const cldStopped = 5

// Pause stops QEMU with all its threads, and returns when none of them runs, or with ErrGone. QMP's own stop would take the devices
// from their back ends, and with them the guest's connections and open files.
func (p *Process) Pause() error {
	if err := p.signal(unix.SIGSTOP); err != nil {
		return err
	}
	var info unix.Siginfo
	for {
		// Not reaped here, so an exit is seen as well.
		err := unix.Waitid(unix.P_PID, p.PID(), &info, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD), err == nil && info.Code != cldStopped:
			err = ErrGone
		}
		if err != nil {
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
		err = ErrGone
	}
	if err != nil {
		return fmt.Errorf("signal QEMU %d: %w", p.PID(), err)
	}
	return nil
}
