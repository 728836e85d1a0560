package process

import (
	"context"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func start(t *testing.T, r *Reaper, script string) <-chan Ended {
	t.Helper()
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("needs a shell")
	}
	_, ended, err := r.Start(func() (int, error) {
		return syscall.ForkExec(sh, []string{"sh", "-c", script}, &syscall.ProcAttr{})
	})
	if err != nil {
		t.Fatal(err)
	}
	return ended
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

func TestAFailedForkHasNoWaiter(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := NewReaper(ctx)
	_, _, err := r.Start(func() (int, error) {
		return syscall.ForkExec("/no/such/program", nil, &syscall.ProcAttr{})
	})
	if err == nil || len(r.waiters) != 0 {
		t.Errorf("got %v, %d waiters", err, len(r.waiters))
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
