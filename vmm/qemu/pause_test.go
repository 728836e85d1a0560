package qemu

import (
	"errors"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAProcessThatHasJustExitedIsNotPaused(t *testing.T) {
	cmd := exec.Command("true")
	must(t, cmd.Start())
	defer func() { _ = cmd.Wait() }()
	must(t, unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil))
	if err := (&Process{process: cmd.Process}).Pause(); !errors.Is(err, ErrGone) {
		t.Errorf("got %v", err)
	}
}
