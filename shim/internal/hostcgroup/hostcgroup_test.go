package hostcgroup

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/systemd"
	"golang.org/x/sys/unix"
)

func TestPathForms(t *testing.T) {
	for _, test := range []struct {
		path string
		want *cgroups.Cgroup
	}{
		{"/default/c", &cgroups.Cgroup{Path: "/default/c"}},
		{"kubepods/pod1/c", &cgroups.Cgroup{Path: "/kubepods/pod1/c"}},
		{"../../c", &cgroups.Cgroup{Path: "/c"}},
		{"system.slice:docker:c", &cgroups.Cgroup{Parent: "system.slice", ScopePrefix: "docker", Name: "c", Systemd: true}},
		{":cri:c", &cgroups.Cgroup{ScopePrefix: "cri", Name: "c", Systemd: true}},
	} {
		got, err := parse(test.path)
		if err != nil {
			t.Errorf("%s: %v", test.path, err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: %s", test.path, diff)
		}
	}
	for _, bad := range []string{"/", "..", "a:b", "a:b:", "a:b:c:d"} {
		if _, err := parse(bad); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestWithoutAPathNothingIsDone(t *testing.T) {
	c, err := New("", Limits{Memory: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Add(1<<30), c.Remove()); err != nil || c.OOMKilled() {
		t.Error(err)
	}
}

func TestAProcessIsPlacedAndTheCgroupRemoved(t *testing.T) {
	c, err := New("/husk-test/c", Limits{Memory: 64 << 20, Shares: 512})
	if err != nil {
		t.Skip("no cgroups here:", err)
	}
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err := c.Remove(); err != nil {
			t.Error(err)
		}
		for _, dir := range c.manager.GetPaths() {
			if cgroups.PathExists(dir) {
				t.Errorf("%s is still there", dir)
			}
		}
		if parent, err := New("/husk-test", Limits{}); err == nil {
			_ = parent.Remove()
		}
	}()
	if err := c.Add(cmd.Process.Pid); errors.Is(err, os.ErrPermission) || (err != nil && strings.Contains(err.Error(), "read-only")) {
		t.Skip("cgroups are not ours to change here:", err)
	} else if err != nil {
		t.Fatal(err)
	}
	placed := false
	for _, dir := range c.manager.GetPaths() {
		if pids, err := cgroups.GetPids(dir); err == nil {
			placed = slices.Contains(pids, cmd.Process.Pid)
			if !placed {
				t.Errorf("the process is not in %s", dir)
			}
		}
	}
	if !placed {
		t.Error("the process is in no cgroup")
	}
	for controller, files := range map[string][]string{
		"memory": {"memory.limit_in_bytes", "memory.max"},
		"cpu":    {"cpu.shares", "cpu.weight"},
	} {
		if !c.has(controller, files...) {
			if !slices.Contains(c.Missing(), controller) {
				t.Errorf("controller %s is not here, and missing are %q", controller, c.Missing())
			}
			continue
		}
		limited := false
		for _, dir := range c.manager.GetPaths() {
			for _, f := range files {
				text, _ := os.ReadFile(filepath.Join(dir, f))
				word := strings.TrimSpace(string(text))
				limited = limited || word == "67108864" || word == "512" || f == "cpu.weight" && word != "" && word != "100"
			}
		}
		if !limited {
			t.Errorf("the limit of %s is not set", controller)
		}
	}
}

// The library gives up after a second.
func TestRemoveWaitsForWhoIsLeaving(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("cgroups are root's")
	}
	c, err := New("/husk-test-leaving", Limits{})
	if err != nil {
		t.Fatal(err)
	}
	sleeper := exec.Command("sleep", "3")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = sleeper.Wait() }()
	if err := c.Add(sleeper.Process.Pid); err != nil {
		_ = sleeper.Process.Kill()
		if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) {
			t.Skip("cgroups can't be made here: ", err)
		}
		t.Fatal(err)
	}
	if err := c.Remove(); err != nil {
		t.Error(err)
	}
}

func TestAnOOMKillIsKnownWhenTheCgroupIsGone(t *testing.T) {
	for _, test := range []struct {
		name, path string
		command    []string
		killed     bool
	}{
		{"tail keeps all that has no end", "/husk-test-oom/c", []string{"tail", "/dev/zero"}, true},
		{"below the root", "/husk-test-oom", []string{"tail", "/dev/zero"}, true},
		{"killed", "/husk-test-oom/c", []string{"sh", "-c", "kill -KILL $$"}, false},
		{"near the limit", "/husk-test-oom", []string{"dd", "if=/dev/zero", "of=/dev/null", "bs=12M", "count=1"}, false},
	} {
		c, err := New(test.path, Limits{Memory: 16 << 20})
		if err != nil {
			t.Skip("no cgroups here:", err)
		}
		// It waits for a line, so that it is in the cgroup by then.
		cmd := exec.Command("sh", append([]string{"-c", `read x && exec "$@"`, "sh"}, test.command...)...)
		start, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		err = c.Add(cmd.Process.Pid)
		_, _ = start.Write([]byte("\n"))
		_ = cmd.Wait()
		if err != nil || slices.Contains(c.Missing(), "memory") {
			t.Skip("no limit of memory can be set here:", err)
		}
		// As systemd does with a scope, of which the shim hears nothing.
		if err := c.manager.Destroy(); err != nil {
			t.Fatal(err)
		}
		if got := c.OOMKilled(); got != test.killed {
			t.Errorf("%s: killed for want of memory: %v", test.name, got)
		}
		if err := c.Remove(); err != nil {
			t.Error(err)
		}
		if parent, err := New("/husk-test-oom", Limits{}); err == nil {
			_ = parent.Remove()
		}
	}
}

func TestSystemdIsNeverReplacedSilently(t *testing.T) {
	if err := CheckDriver("/kubepods/c", true); err == nil || !strings.Contains(err.Error(), "SystemdCgroup") {
		t.Error(err)
	}
	for path, systemd := range map[string]bool{"/kubepods/c": false, "a.slice:cri:c": true, "b.slice:cri:c": false} {
		if err := CheckDriver(path, systemd); err != nil {
			t.Error(err)
		}
	}
	if systemd.IsRunningSystemd() {
		t.Skip("systemd runs here")
	}
	if _, err := New("system.slice:husk:c", Limits{}); !errors.Is(err, ErrNoSystemd) || !strings.Contains(err.Error(), "SystemdCgroup") {
		t.Error(err)
	}
	if err := Remove("system.slice:husk:c"); err != nil {
		t.Error("where no systemd is, nothing is left to remove:", err)
	}
}
