package cri

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// debugger is an ephemeral container as `kubectl debug --target` makes it.
func debugger(name, script string, target *container) *cri.ContainerConfig {
	config := shell(name, script)
	config.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{Pid: cri.NamespaceMode_TARGET, TargetId: target.id}
	return config
}

// sleeps are those that are seen, but for that of idle.
const sleeps = "ps -o args | awk '$1 == \"sleep\" && $2 != 1000 {print $2}'"

func TestADebugContainerSeesItsTarget(t *testing.T) {
	before := census(t)
	p := newPod(t)
	one := p.start(shell("one", "echo of one > /mine; sleep 1111 & "+idle))
	two := p.start(shell("two", "echo of two > /mine; sleep 2222 & "+idle))
	for _, c := range []struct {
		target     *container
		sleep, own string
	}{{two, "2222", "of two"}, {one, "1111", "of one"}} {
		name := c.target.config.Metadata.Name
		d := p.start(debugger("debug-"+name, idle, c.target))
		d.expectOutput(c.sleep, sleeps)
		d.expectOutput(c.own, "cat /proc/1/root/mine")
		d.expectOutput(c.own, "cat /proc/$(ps -o pid,args | awk '$2 == \"sleep\" && $3 == "+c.sleep+" {print $1}')/root/mine")
		// Its files are its own, and its processes are seen by the target.
		d.expectOutput("none", "cat /mine 2>/dev/null || echo none")
		if a, b := d.prints("readlink /proc/self/ns/pid"), c.target.prints("readlink /proc/self/ns/pid"); a == "" || a != b {
			t.Errorf("pid namespaces %q and %q", a, b)
		}
		if a, b := d.prints("readlink /proc/self/ns/mnt"), c.target.prints("readlink /proc/self/ns/mnt"); a == "" || a == b {
			t.Errorf("mount namespaces %q and %q", a, b)
		}
		// The end of the debugger is its own.
		d.stop(0)
		d.expectExit(137)
		c.target.expectOutput(c.sleep, sleeps)
	}
	t.Run("without a target", func(t *testing.T) {
		d := p.start(shell("debug-nobody", idle))
		d.expectOutput("", sleeps)
	})
	t.Run("it signals its target", func(t *testing.T) {
		d := p.start(debugger("debug-kill", "kill -TERM 1; exit 3", one))
		one.expectExit(0)
		// Whoever is in a pid namespace ends with its first process.
		if s := d.wait(); s.ExitCode != 3 && s.ExitCode != 137 {
			t.Errorf("exit status %d", s.ExitCode)
		}
	})
	t.Run("its target ends", func(t *testing.T) {
		d := p.start(debugger("debug-late", idle, two))
		two.stop(0)
		two.expectExit(137)
		d.expectExit(137)
	})
	t.Run("a target that has ended", func(t *testing.T) {
		if _, err := p.tryCreate(debugger("debug-ended", idle, two)); err == nil || !strings.Contains(err.Error(), "not running") {
			t.Errorf("error %v", err)
		}
	})
	p.start(shell("last", "exit 5")).expectExit(5)
	p.remove()
	before.Expect(t)
}

// Of a pod whose containers share their processes, the target's namespace is the pod's.
func TestADebugContainerOfAPodThatSharesItsProcesses(t *testing.T) {
	p := newPod(t, func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD })
	sharing := func(name, script string) *cri.ContainerConfig {
		config := shell(name, script)
		config.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
		return config
	}
	one := p.start(sharing("one", "sleep 1111"))
	p.start(sharing("two", "sleep 2222"))
	d := p.start(debugger("debug", idle, one))
	d.expectOutput("1111\n2222", sleeps+" | sort")
}

// Each container has a pid of its own on the host, which says whose the processes are that another one is to see.
func TestContainersHaveTheirOwnPidsOnTheHost(t *testing.T) {
	p := newPod(t)
	pids := map[int]bool{}
	for _, name := range []string{"one", "two", "three"} {
		c := p.start(shell(name, idle))
		pid := c.pid()
		if pids[pid] || !alive(pid) {
			t.Errorf("%s has the pid %d, which is another's or nobody's", name, pid)
		}
		pids[pid] = true
		if name != "three" {
			continue
		}
		c.stop(0)
		c.remove()
		eventually(t, "the pid is nobody's", func() bool { return !alive(pid) })
	}
}

// pid is what stands for the container on the host.
func (c *container) pid() int {
	c.t.Helper()
	r, err := runtime.ContainerStatus(testContext(c.t), &cri.ContainerStatusRequest{ContainerId: c.id, Verbose: true})
	if err != nil {
		c.t.Fatalf("status of container %s: %v", c.config.Metadata.Name, err)
	}
	var info struct{ PID int }
	if err := json.Unmarshal([]byte(r.Info["info"]), &info); err != nil || info.PID == 0 {
		c.t.Fatalf("container %s: information %q: %v", c.config.Metadata.Name, r.Info["info"], err)
	}
	return info.PID
}

func alive(pid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d/ns/pid", pid))
	return err == nil
}
