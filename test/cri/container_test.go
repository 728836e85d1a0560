package cri

import (
	"fmt"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// shell is a container that runs a script.
func shell(name, script string) *cri.ContainerConfig {
	return containerConfig(name, "sh", "-c", script)
}

// idle waits to be stopped, which it obeys at once.
const idle = "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done"

// A pod of three containers is one VM: what each has of its own, and what they share.
func TestThreeContainersShareAVM(t *testing.T) {
	before := census(t)
	p := newPod(t)
	if s := p.status(); s.State != cri.PodSandboxState_SANDBOX_READY {
		t.Errorf("state %s", s.State)
	}
	if vmms := newVMMs(t, before); len(vmms) != 1 {
		t.Errorf("VMMs %v", vmms)
	}
	boot := ""
	for i, name := range []string{"one", "two", "three"} {
		config := shell(name, "echo $NAME > /mine; echo i am $NAME; "+idle)
		config.Envs = []*cri.KeyValue{{Key: "NAME", Value: []byte(name)}}
		c := p.start(config)
		c.says("i am " + name)
		c.expectOutput(name, "cat /mine")
		c.expectOutput(p.config.Hostname, "hostname")
		id, _, _ := c.exec("cat", "/proc/sys/kernel/random/boot_id")
		if i == 0 {
			boot = id
		} else if id != boot {
			t.Errorf("%s is in another VM", name)
		}
	}
	if vmms := newVMMs(t, before); len(vmms) != 1 {
		t.Errorf("VMMs %v", vmms)
	}
	p.remove()
	before.Expect(t)
}

func TestExitsAndLogsOfContainers(t *testing.T) {
	p := newPod(t)
	// The others go on, or not, as they please.
	long := p.start(shell("long", idle))
	t.Run("init containers one after the other", func(t *testing.T) {
		p.start(shell("init-1", "echo first; exit 0")).expectExit(0)
		p.start(shell("init-2", "echo second; exit 0")).expectExit(0)
	})
	t.Run("exit status", func(t *testing.T) {
		p.start(shell("seven", "exit 7")).expectExit(7)
		p.start(shell("signalled", "sh -c 'kill -9 $$'; exit $?")).expectExit(137)
	})
	t.Run("missing executable", func(t *testing.T) {
		c := p.start(containerConfig("missing", "no-such-program"))
		c.expectExit(127)
		if !strings.Contains(c.log(), "no-such-program") {
			t.Errorf("log %q", c.log())
		}
	})
	t.Run("log is complete", func(t *testing.T) {
		script := "seq 1 50000; echo end >&2"
		if *containerd == "" {
			// containerd 1.6 loses the end of the log of a container that exits at once, with runc as well.
			script += "; " + idle
		}
		c := p.start(shell("talker", script))
		if *containerd != "" {
			c.expectExit(0)
		}
		var want strings.Builder
		for i := range 50000 {
			fmt.Fprintln(&want, i+1)
		}
		// A status may be known before the engine has written the last line.
		eventually(t, "the log is as long as the output", func() bool { return len(c.log()) >= want.Len()+len("end\n") })
		if got := strings.Replace(c.log(), "end\n", "", 1); got != want.String() {
			t.Errorf("the log's %d bytes are not what was said", len(got))
		}
	})
	t.Run("restarted", func(t *testing.T) {
		for attempt := range uint32(3) {
			config := shell("again", fmt.Sprintf("test ! -e /seen && touch /seen; exit $((%d + $?))", attempt))
			config.Metadata.Attempt = attempt
			c := p.start(config)
			c.expectExit(int32(attempt))
			c.remove()
		}
	})
	if s := long.status(); s.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the long one is %s", s.State)
	}
	t.Run("graceful stop", func(t *testing.T) {
		long.stop(30 * time.Second)
		long.expectExit(0)
	})
	t.Run("stop after the grace period", func(t *testing.T) {
		c := p.start(shell("deaf", "trap '' TERM; echo deaf; while :; do sleep 1; done"))
		c.says("deaf")
		c.stop(time.Second)
		c.expectExit(137)
	})
}

func TestExecSync(t *testing.T) {
	p := newPod(t)
	c := p.start(shell("main", idle))
	if stdout, stderr, status := c.exec("sh", "-c", "echo out; echo err >&2; exit 5"); stdout != "out\n" || stderr != "err\n" || status != 5 {
		t.Errorf("%q %q %d", stdout, stderr, status)
	}
	// A probe that takes too long is an error, and what it ran is gone.
	_, err := runtime.ExecSync(testContext(t), &cri.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"sleep", "777"}, Timeout: 1})
	if err == nil || !strings.Contains(err.Error(), "timed out") && !strings.Contains(err.Error(), "deadline") && !strings.Contains(err.Error(), "timeout") {
		t.Errorf("error %v", err)
	}
	c.expectOutput("0", "ps | grep -c '[s]leep 777' || true")
}
