package qemu

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestEnds(t *testing.T) {
	exit := func(n int) syscall.WaitStatus { return syscall.WaitStatus(n << 8) }
	signal := func(s syscall.Signal) syscall.WaitStatus { return syscall.WaitStatus(s) }
	for _, c := range []struct {
		name   string
		a      account
		want   Reason
		detail string
	}{
		{"guest restarts", account{shutdown: "guest-reset"}, Reset, ""},
		{"guest powers off", account{shutdown: "guest-shutdown"}, PowerOff, ""},
		{"guest says that it panicked", account{shutdown: "guest-panic"}, Crashed, ""},
		{"guest panicked and waits", account{run: "guest-panicked", status: signal(syscall.SIGKILL)}, Crashed, ""},
		{"KVM gives up", account{run: "internal-error", status: signal(syscall.SIGKILL), stderr: "KVM: entry failed"},
			InternalError, "it stopped the guest with the status internal-error; it said: KVM: entry failed"},
		{"guest restarts before it is closed", account{shutdown: "guest-reset", asked: true, status: signal(syscall.SIGKILL)}, Reset, ""},
		{"closed", account{asked: true, status: signal(syscall.SIGKILL)}, Stopped, ""},
		{"closed and asked to go", account{asked: true, shutdown: "host-signal"}, Stopped, ""},
		{"killed", account{status: signal(syscall.SIGKILL)}, Killed, "by signal 9 (killed)"},
		{"asked to go", account{shutdown: "host-signal", status: exit(0)}, Killed, ""},
		{"its own fault", account{status: signal(syscall.SIGSEGV), stderr: "oh"}, Died, "of signal 11 (segmentation fault); it said: oh"},
		{"its filter", account{status: signal(syscall.SIGSYS)}, Died, "its seccomp filter ended it for a forbidden system call"},
		{"exits", account{status: exit(1), stderr: "no memory"}, Died, "with exit status 1; it said: no memory"},
		{"exits without a word", account{status: exit(0)}, Died, "with exit status 0"},
		{"host error", account{shutdown: "host-error", status: exit(1)}, Died, "with exit status 1"},
		{"a reason of its own", account{shutdown: "\x00", status: exit(0)}, Died, "with exit status 0"},
		{"babbles", account{broken: errors.New("QMP: x"), status: signal(syscall.SIGKILL)}, InternalError, "its control line broke: QMP: x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.a.end(); got.Reason != c.want || got.Detail != c.detail {
				t.Errorf("got %v, want %v: %s", got, c.want, c.detail)
			}
		})
	}
}

func TestLastWordsAreTextAndBounded(t *testing.T) {
	r, w, err := os.Pipe()
	must(t, err)
	last := newTail(r)
	_, _ = w.WriteString(strings.Repeat("x", 3*tailSize) + "\x1b[2Jend\xff\u009b\r\n")
	_ = w.Close()
	got := last.finish(drain)
	if len(got) > tailSize || !strings.HasSuffix(got, "x[2Jend?") {
		t.Errorf("%d bytes, ending in %q", len(got), got[max(0, len(got)-20):])
	}
}
