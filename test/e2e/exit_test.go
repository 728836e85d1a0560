package e2e

import (
	"strings"
	"testing"
)

func TestExitStatusIsTrue(t *testing.T) {
	for _, c := range []struct {
		name   string
		args   []string
		status int
		stderr string // part of it
	}{
		{"zero", []string{"true"}, 0, ""},
		{"one", []string{"false"}, 1, ""},
		{"forty-two", []string{"sh", "-c", "exit 42"}, 42, ""},
		{"two hundred and fifty-five", []string{"sh", "-c", "exit 255"}, 255, ""},
		{"script", []string{"/srv/script"}, 9, ""},
		{"child killed by TERM", []string{"sh", "-c", `sh -c "kill -TERM \$\$"; exit $?`}, 143, ""},
		{"child killed by KILL", []string{"sh", "-c", `sh -c "kill -KILL \$\$"; exit $?`}, 137, ""},
		{"PID 1 is immune to its own signals", []string{"sh", "-c", "kill -TERM $$; kill -KILL $$; exit 7"}, 7, ""},
		{"missing in PATH", []string{"nosuch"}, 127, `exec: "nosuch": executable file not found in $PATH`},
		{"missing by path", []string{"/no/such"}, 127, `exec: "/no/such": stat /no/such: no such file or directory`},
		{"a directory", []string{"/etc"}, 126, `exec: "/etc": is a directory`},
		{"mode 644", []string{"/srv/not-executable"}, 126, `exec: "/srv/not-executable": permission denied`},
		{"bad format", []string{"/srv/bad-format"}, 126, "exec format error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			res := ctrRun(t, nil, c.args...)
			if res.Status != c.status {
				t.Errorf("status %d, want %d; stderr: %s", res.Status, c.status, res.Stderr)
			}
			if !strings.Contains(res.Stderr, c.stderr) {
				t.Errorf("stderr is %q, want %q in it", res.Stderr, c.stderr)
			}
		})
	}
}

func TestGuestRunsItsOwnKernel(t *testing.T) {
	host := strings.TrimSpace(output(t, "uname", "-r"))
	guest := strings.TrimSpace(ctrRun(t, nil, "uname", "-r").Stdout)
	if guest == host || !strings.HasSuffix(guest, "-husk") {
		t.Errorf("guest's kernel is %q, the host's %q", guest, host)
	}
}

func TestSignalsReachTheWorkload(t *testing.T) {
	for _, c := range []struct {
		signal string
		script string
		status int
	}{
		{"SIGKILL", "sleep 1000 & wait", 137},
		{"SIGTERM", "trap 'exit 33' TERM; sleep 1000 & wait", 33},
		{"SIGUSR1", "trap 'exit 34' USR1; sleep 1000 & wait", 34},
		{"37", "trap 'exit 35' 37; sleep 1000 & wait", 35}, // SIGRTMIN+3, which stops systemd
	} {
		t.Run(c.signal, func(t *testing.T) {
			b := start(t, nil, "sh", "-c", "echo ready; "+c.script)
			// A trap may be set after the task runs: the signal is repeated until it is seen.
			eventually(t, b.id+" ends", func() bool {
				_ = shared.Ctr(testContext(t), "task", "kill", "-s", c.signal, b.id).Run()
				select {
				case <-b.done:
					return true
				default:
					return false
				}
			})
			if res := b.wait(t); res.Status != c.status {
				t.Errorf("status %d, want %d; stderr: %s", res.Status, c.status, res.Stderr)
			}
		})
	}
}
