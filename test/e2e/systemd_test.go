package e2e

import (
	"strings"
	"testing"
)

// systemd gets what it asks of a container manager: to be told that it is in a container, a writable cgroup, a
// tmpfs on /run (which containerd's default has). It may power off its PID namespace, which ends with SIGINT.
func TestSystemdRunsAndStops(t *testing.T) {
	before := census(t)
	b := debianInit(t, []string{
		"--privileged", "--env", "container=husk", "--mount", "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=rw",
	}, "/sbin/init")
	// Until it listens, there is nothing to ask.
	eventually(t, "systemd is up", func() bool { return b.try(t, "systemctl is-system-running --wait").Stdout != "offline\n" })
	var state string
	eventually(t, "systemd has booted", func() bool {
		state = strings.TrimSpace(b.try(t, "systemctl is-system-running --wait").Stdout)
		return state == "running" || state == "degraded"
	})
	if state != "running" {
		t.Errorf("the system is %s:\n%s", state, b.run(t, "systemctl --failed --no-pager --plain; journalctl --no-pager -p warning"))
	}
	b.expect(t, "systemctl is-active graphical.target systemd-journald.service dbus.service systemd-logind.service",
		strings.Repeat("active\n", 4))
	// Services are in cgroups of their own, and can be limited.
	b.expect(t, "systemd-run --quiet --wait --pipe -p MemoryMax=32M sh -c 'cat /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/memory.max'",
		"33554432\n")
	ctr(t, "task", "kill", "-s", "SIGRTMIN+3", b.id)
	eventually(t, "systemd has stopped", func() bool { return taskStatus(t, b.id) == "STOPPED" })
	out, err := shared.Ctr(testContext(t), "task", "rm", b.id).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "exit code 130") {
		t.Errorf("%v: %s", err, out)
	}
	ctr(t, "container", "rm", b.id)
	before.Expect(t)
}
