package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/console"

	"github.com/huskvm/husk/test/rig"
)

func TestStdoutAndStderrStayApart(t *testing.T) {
	res := ctrRun(t, nil, "sh", "-c", "echo to out; echo to err >&2")
	if res.Stdout != "to out\n" || res.Stderr != "to err\n" || res.Status != 0 {
		t.Errorf("%+v", res)
	}
}

func TestStdinReachesItsEnd(t *testing.T) {
	cmd := shared.Ctr(testContext(t), rig.RunArgs(newID(t), nil, "cat")...)
	cmd.Stdin = strings.NewReader("hello\n")
	res, err := rig.Exec(cmd)
	if err != nil || res.Status != 0 || res.Stdout != "hello\n" {
		t.Errorf("%v, %+v", err, res)
	}
}

func TestMegabytesOfStdinArriveWhole(t *testing.T) {
	data := make([]byte, 8<<20)
	_, _ = rand.New(rand.NewSource(1)).Read(data)
	cmd := shared.Ctr(testContext(t), rig.RunArgs(newID(t), nil, "sha256sum")...)
	cmd.Stdin = bytes.NewReader(data)
	res, err := rig.Exec(cmd)
	sum := sha256.Sum256(data)
	if err != nil || !strings.HasPrefix(res.Stdout, hex.EncodeToString(sum[:])) {
		t.Errorf("%v, %+v, want %x", err, res, sum)
	}
}

func TestTwentyMegabytesOfStdoutArriveWhole(t *testing.T) {
	res := ctrRun(t, nil, "sh", "-c",
		"dd if=/dev/urandom of=/tmp/data bs=1M count=20 2>/dev/null; sha256sum /tmp/data >&2; cat /tmp/data")
	sum := sha256.Sum256([]byte(res.Stdout))
	if len(res.Stdout) != 20<<20 || !strings.HasPrefix(res.Stderr, hex.EncodeToString(sum[:])) {
		t.Errorf("%d bytes with sum %x; the guest says %s", len(res.Stdout), sum, res.Stderr)
	}
}

// The exit must not overtake a burst of output just before it.
func TestBurstBeforeExitArrivesWhole(t *testing.T) {
	res := ctrRun(t, nil, "sh", "-c", "head -c 8388608 /dev/zero; exit 5")
	if len(res.Stdout) != 8<<20 || res.Status != 5 {
		t.Errorf("%d bytes, status %d", len(res.Stdout), res.Status)
	}
}

func TestStdoutCanBeOpenedAgain(t *testing.T) {
	needFlag(t, "--user")
	res := ctrRun(t, []string{"--user", "1000"}, "sh", "-c", "echo again > /dev/stdout")
	if res.Stdout != "again\n" {
		t.Errorf("%+v", res)
	}
}

// A terminal of ctr's own, as a user has one.
func TestTerminalHasTheRightSize(t *testing.T) {
	// The size arrives after the start, as with runc: ask until it does.
	const script = `for i in $(seq 100); do [ "$(stty size)" = "37 91" ] && break; sleep 0.1; done; stty size; tty; exit 3`
	check := func(t *testing.T, args ...string) {
		t.Helper()
		status, got := onTerminal(t, shared.Ctr(testContext(t), append(args, "sh", "-c", script)...))
		if status != 3 || !strings.Contains(got, "37 91\r") || !strings.Contains(got, "/dev/pts/") && !strings.Contains(got, "/dev/console") {
			t.Errorf("status %d, the terminal shows %q", status, got)
		}
	}
	t.Run("run", func(t *testing.T) { check(t, rig.RunArgs(newID(t), []string{"-t"})...) })
	t.Run("exec", func(t *testing.T) {
		b := start(t, nil, "sleep", "1000")
		check(t, "task", "exec", "-t", "--exec-id", "x", b.id)
	})
}

// As long as the process runs, a terminal that nobody has open may be opened again: systemd does so all the time.
func TestATerminalGoesOnWhenNobodyHasItOpen(t *testing.T) {
	const script = `t=%s; exec </dev/null >/dev/null 2>&1; sleep 1; echo first >$t; sleep 1; echo last >$t; exit 3`
	check := func(t *testing.T, terminal string, args ...string) {
		t.Helper()
		status, got := onTerminal(t, shared.Ctr(testContext(t), append(args, "sh", "-c", fmt.Sprintf(script, terminal))...))
		if status != 3 || strings.ReplaceAll(got, "\r", "") != "first\nlast\n" {
			t.Errorf("status %d, the terminal shows %q", status, got)
		}
	}
	t.Run("run", func(t *testing.T) { check(t, "/dev/console", rig.RunArgs(newID(t), []string{"-t"})...) })
	t.Run("exec", func(t *testing.T) {
		b := start(t, nil, "sleep", "1000")
		check(t, "$(tty)", "task", "exec", "-t", "--exec-id", "x", b.id)
	})
}

// onTerminal runs a command on a terminal of 91 columns and 37 lines, and returns what that shows.
func onTerminal(t *testing.T, cmd *exec.Cmd) (status int, shown string) {
	t.Helper()
	pty, slave, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	defer pty.Close()
	tty, err := os.OpenFile(slave, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	if err := pty.Resize(console.WinSize{Width: 91, Height: 37}); err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out := make(chan string)
	go func() {
		var buf bytes.Buffer
		_, _ = io.Copy(&buf, pty)
		out <- buf.String()
	}()
	_ = cmd.Wait()
	_ = tty.Close()
	return cmd.ProcessState.ExitCode(), <-out
}

func TestExecHasItsOwnStatusAndOutput(t *testing.T) {
	b := start(t, nil, "sleep", "1000")
	for i, c := range []struct {
		args   []string
		status int
		stdout string
		stderr string
	}{
		{[]string{"sh", "-c", "echo in; exit 21"}, 21, "in\n", ""},
		{[]string{"hostname"}, 0, "", ""},
		{[]string{"nosuch"}, 127, "", `exec: "nosuch": executable file not found in $PATH`},
		{[]string{"/etc"}, 126, "", "is a directory"},
		{[]string{"sh", "-c", "kill -TERM $$"}, 143, "", ""},
		{[]string{"sh", "-c", "readlink /proc/1/exe"}, 0, "/bin/busybox\n", ""},
	} {
		cmd := shared.Ctr(testContext(t), append([]string{"task", "exec", "--exec-id", fmt.Sprint("e", i), b.id}, c.args...)...)
		res, err := rig.Exec(cmd)
		if err != nil {
			t.Fatal(err)
		}
		if res.Status != c.status || c.stdout != "" && res.Stdout != c.stdout || !strings.Contains(res.Stderr, c.stderr) {
			t.Errorf("%v: %+v", c.args, res)
		}
	}
	if got := taskStatus(t, b.id); got != "RUNNING" {
		t.Errorf("after the execs the container is %s", got)
	}
}
