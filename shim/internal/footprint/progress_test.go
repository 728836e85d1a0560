package footprint

import (
	"os/exec"
	"syscall"
	"testing"
	"time"
)

func start(t *testing.T, args ...string) int {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); _ = cmd.Wait() })
	return cmd.Process.Pid
}

// eventually waits for the progress of a process to be what is wanted.
func eventually(t *testing.T, pid int, want func(ran time.Duration, willing bool) bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		ran, willing := Progress(pid)
		if want(ran, willing) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("it has run %s, willing %t", ran, willing)
		}
	}
}

func TestABusyProcessGetsOn(t *testing.T) {
	busy := start(t, "sh", "-c", "while :; do :; done")
	eventually(t, busy, func(ran time.Duration, willing bool) bool { return willing && ran > 100*time.Millisecond })
}

func TestAnIdleProcessDoesNotWantTo(t *testing.T) {
	idle := start(t, "sleep", "1000")
	eventually(t, idle, func(_ time.Duration, willing bool) bool { return !willing })
}

func TestWhatAProcessHasStartedIsCounted(t *testing.T) {
	parent := start(t, "sh", "-c", "(while :; do :; done) & wait")
	eventually(t, parent, func(ran time.Duration, willing bool) bool { return willing && ran > 100*time.Millisecond })
}
