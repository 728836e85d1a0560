package process

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// start runs a script once its end is waited for.
func start(t *testing.T, r *Reaper, script string) <-chan Ended {
	t.Helper()
	pid, pidfd, letGo := fork(t, "read x; "+script)
	defer unix.Close(pidfd)
	ended, err := r.Adopt(pid, pidfd, func() error { return nil })
	letGo()
	if err != nil {
		t.Error(err)
	}
	return ended
}

// fork runs a script whose input ends with letGo.
func fork(t *testing.T, script string) (pid, pidfd int, letGo func()) {
	t.Helper()
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("needs a shell")
	}
	theirs, ours, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	pid, err = syscall.ForkExec(sh, []string{"sh", "-c", script}, &syscall.ProcAttr{
		Files: []uintptr{theirs.Fd()}, Sys: &syscall.SysProcAttr{PidFD: &pidfd},
	})
	if err != nil {
		t.Fatal(err)
	}
	return pid, pidfd, func() { ours.Close() }
}

func TestEveryChildsStatusReachesItsWaiter(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := NewReaper(ctx)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			// The orphan is ours to reap as well, when we are PID 1 or a subreaper, and nobody waits for it.
			ended := start(t, r, "(exit 7) & exit "+string(rune('0'+i%10)))
			select {
			case e := <-ended:
				if got := Code(e.Status); got != uint32(i%10) {
					t.Errorf("child %d: status %d", i, got)
				}
			case <-time.After(10 * time.Second):
				t.Errorf("child %d: nobody told", i)
			}
		})
	}
	wg.Wait()
}

func TestWhatWasReapedOrNotPreparedHasNoWaiter(t *testing.T) {
	r := NewReaper(t.Context())
	pid, pidfd, letGo := fork(t, "read x")
	defer unix.Close(pidfd)
	broken := errors.New("broken")
	if _, err := r.Adopt(pid, pidfd, func() error { return broken }); !errors.Is(err, broken) || len(r.waiters) != 0 {
		t.Errorf("not prepared: %v, %d waiters", err, len(r.waiters))
	}
	letGo()
	for end := time.Now().Add(10 * time.Second); unix.PidfdSendSignal(pidfd, 0, nil, 0) == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it was not reaped")
		}
	}
	_, err := r.Adopt(pid, pidfd, func() error { t.Error("prepared what has ended"); return nil })
	if !errors.Is(err, errReaped) || len(r.waiters) != 0 {
		t.Errorf("reaped: %v, %d waiters", err, len(r.waiters))
	}
}

func TestAWaitStatusIsTranslatedAsShellsDo(t *testing.T) {
	for status, want := range map[unix.WaitStatus]uint32{
		0: 0, 42 << 8: 42, 255 << 8: 255, 9: 137, 15: 143, 15 | 0x80: 143, 64: 192,
	} {
		if got := Code(status); got != want {
			t.Errorf("wait status %#x: %d, want %d", uint32(status), got, want)
		}
	}
}

func TestOnlySignalsThatEndAProgramEndAPreparedOne(t *testing.T) {
	for sig, want := range map[unix.Signal]bool{
		unix.SIGTERM: true, unix.SIGKILL: true, unix.SIGHUP: true, 34: true,
		unix.SIGWINCH: false, unix.SIGCHLD: false, unix.SIGCONT: false, unix.SIGSTOP: false, 0: false,
	} {
		if got := fatal(sig); got != want {
			t.Errorf("signal %d: %v", sig, got)
		}
	}
}
