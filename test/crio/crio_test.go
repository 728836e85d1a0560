package crio

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const idle = "trap 'exit 0' TERM; while :; do sleep 0.1; done"

func TestAPodIsOneVMWithAllItsContainers(t *testing.T) {
	before := census(t)
	p := newPod(t)
	if vms := before.Since(t, "process"); len(vms) == 0 {
		t.Error("no process of a VM")
	}
	one := p.shell("echo hello; hostname; cat /etc/resolv.conf; " + idle)
	one.says("nameserver 192.0.2.53")
	if want := p.infra.spec.Hostname; !strings.Contains(one.out.String(), "hello\n"+want+"\n") {
		t.Errorf("%q; want hostname %s", one.out, want)
	}
	two := p.shell(idle)
	// Each has a pid of its own, which is a thread of the VMM's.
	for _, c := range []*container{one, two} {
		if c.pid == p.infra.pid || one.pid == two.pid || !strings.Contains(readFile(t, fmt.Sprintf("/proc/%d/status", c.pid)), fmt.Sprintf("\nTgid:\t%d\n", p.infra.pid)) {
			t.Errorf("pids %d, %d and %d: not one VM", p.infra.pid, one.pid, two.pid)
		}
	}
	if got, _ := os.ReadFile(filepath.Join(one.bundle, "address")); len(got) == 0 || string(got) != readFile(t, filepath.Join(p.infra.bundle, "address")) {
		t.Errorf("address %q", got)
	}
	// What is the pod's is shared, and what is not is not.
	one.expectOutput("", "echo from one >/dev/shm/note; echo mine >/mine")
	two.expectOutput("from one\n", "cat /dev/shm/note; test ! -e /mine")
	p.run("busybox", "ping", "-c", "1", "-W", "30", p.address(2))
	two.expectOutput("", "ping -c 1 -W 30 "+p.address(1)+" >/dev/null")

	for status, script := range map[int]string{7: "exit 7", 137: "sh -c 'kill -9 $$'; exit $?", 127: "exec no-such-program"} {
		c := p.shell(script)
		c.expectExit(status)
		p.removeContainer(c)
	}
	must(t, one.stop(30*time.Second))
	one.expectExit(0)
	p.removeContainer(one)
	two.expectOutput("alive\n", "echo alive")
	p.remove()
	before.Expect(t)
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return string(data)
}

func TestStop(t *testing.T) {
	before := census(t)
	p := newPod(t)
	deaf := p.shell("trap '' TERM; echo deaf; while :; do sleep 0.1; done")
	deaf.says("deaf")
	must(t, deaf.stop(time.Second))
	deaf.expectExit(137)
	if err := deaf.stop(time.Second); err == nil {
		t.Error("a container that has ended was killed once more")
	}
	// The infra container's end is that of the pod, whatever else runs.
	busy := p.shell(idle)
	must(t, p.infra.stop(30*time.Second))
	busy.expectExit(137)
	p.remove()
	before.Expect(t)
}

func TestContainersOfOnePod(t *testing.T) {
	before := census(t)
	p := newPod(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *pod)
	}{
		{"exec", execs}, {"attach", attachesOnce}, {"pause, update, stats", updates}, {"out of memory", outOfMemory},
		{"the pod's processes", sharesProcesses},
		{"another container's processes", seesAnothersProcesses},
	} {
		t.Run(test.name, func(sub *testing.T) {
			p.t = sub
			defer func() { p.t = t }()
			test.run(sub, p)
		})
	}
	p.remove()
	before.Expect(t)
}

func execs(t *testing.T, p *pod) {
	c := p.shell(idle)
	process := *c.spec.Process
	t.Run("status and output", func(t *testing.T) {
		process.Args = []string{"sh", "-c", "echo out; echo err >&2; exit 5"}
		code, out, errs, err := c.execCommon(process, false, nil, 0)
		if err != nil || code != 5 || out != "out\n" || errs != "err\n" {
			t.Errorf("%d %q %q %v", code, out, errs, err)
		}
	})
	t.Run("input", func(t *testing.T) {
		process.Args = []string{"md5sum"}
		code, out, _, err := c.execCommon(process, false, bytes.NewReader(make([]byte, 8<<20)), 0)
		if err != nil || code != 0 || !strings.HasPrefix(out, "96995b58d4cbf6aaa9041b4f00c7f6ae ") {
			t.Errorf("%d %q %v", code, out, err)
		}
	})
	t.Run("terminal", func(t *testing.T) {
		process.Args = []string{"sh", "-c", "until [ \"$(stty size 2>/dev/null)\" = '33 77' ]; do sleep 0.1; done; stty size"}
		process.Terminal = true
		defer func() { process.Terminal = false }()
		code, out, _, err := c.execCommon(process, true, strings.NewReader(""), 0, [2]uint32{77, 33})
		if err != nil || code != 0 || out != "33 77\r\n" {
			t.Errorf("%d %q %v", code, out, err)
		}
	})
	t.Run("timeout", func(t *testing.T) {
		process.Args = []string{"sleep", "777"}
		code, _, _, err := c.execCommon(process, false, nil, time.Second)
		if err != nil || code != execTimeout {
			t.Errorf("%d %v", code, err)
		}
		c.expectOutput("0\n", "ps | grep -c '[s]leep 777' || true")
	})
	t.Run("missing", func(t *testing.T) {
		process.Args = []string{"no-such-program"}
		code, _, errs, err := c.execCommon(process, false, nil, 0)
		if err != nil || code != 127 || !strings.Contains(errs, "no-such-program") {
			t.Errorf("%d %q %v", code, errs, err)
		}
	})
}

func attachesOnce(t *testing.T, p *pod) {
	c := p.shell("cat; echo end", withStdin)
	r, w := io.Pipe()
	c.attach(r, func() error { return c.closeStdin("") })
	_, _ = w.Write([]byte("first\n"))
	c.says("first")
	_, _ = w.Write([]byte("second\n"))
	must(t, w.Close())
	c.expectExit(0)
	c.drain()
	if got := c.out.String(); got != "first\nsecond\nend\n" {
		t.Errorf("%q", got)
	}
}

func updates(t *testing.T, p *pod) {
	c := p.shell(idle, func(s *specs.Spec) {
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: pointer(int64(32 << 20))}
	})
	c.expectOutput("33554432\n", "cat /sys/fs/cgroup/memory.max")
	must(t, c.update(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: pointer(int64(48 << 20))}}))
	c.expectOutput("50331648\n", "cat /sys/fs/cgroup/memory.max")
	if err := c.update(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: pointer(int64(8 << 30))}}); err == nil {
		t.Error("more memory than the VM has")
	}
	a, err := c.stats()
	must(t, err)
	stats, err := typeurl.UnmarshalAny(a)
	must(t, err)
	// CRI-O reads all of these without looking whether they are there.
	switch m := stats.(type) {
	case *v1.Metrics:
		if m.Memory.Usage.Usage == 0 || m.Memory.Usage.Limit != 48<<20 || m.CPU.Usage.Total == 0 || m.Pids.Current == 0 ||
			m.Memory.Kernel == nil || m.Memory.KernelTCP == nil || m.Memory.Swap == nil || m.CPU.Throttling == nil {
			t.Errorf("stats %v", m)
		}
	case *v2.Metrics:
		if m.Memory.Usage == 0 || m.Memory.UsageLimit != 48<<20 || m.CPU.UsageUsec == 0 || m.Pids.Current == 0 {
			t.Errorf("stats %v", m)
		}
	default:
		t.Errorf("stats of type %T", stats)
	}
	must(t, c.pause())
	if s, err := c.status(); err != nil || s.Status.String() != "PAUSED" {
		t.Errorf("%v, %v", s, err)
	}
	must(t, c.resume())
	c.expectOutput("alive\n", "echo alive")
}

func outOfMemory(t *testing.T, p *pod) {
	c := p.shell("a=$(dd if=/dev/zero bs=1M count=64 2>/dev/null | tr '\\0' x); echo $?", func(s *specs.Spec) {
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: pointer(int64(16 << 20)), Swap: pointer(int64(16 << 20))}
	})
	c.expectExit(137)
	if _, err := os.Stat(filepath.Join(c.bundle, "oom")); err != nil {
		t.Error(err)
	}
}

func sharesProcesses(t *testing.T, p *pod) {
	c := p.shell(idle, func(s *specs.Spec) {
		s.Linux.Namespaces[0].Path = "/proc/" + strconv.Itoa(int(p.infra.pid)) + "/ns/pid"
	})
	if out, _ := c.exec("ps"); !strings.Contains(out, "sleep 3600") {
		t.Errorf("the infra container's process is not among\n%s", out)
	}
}

func seesAnothersProcesses(t *testing.T, p *pod) {
	other := p.shell("echo of the other > /mine; sleep 1111 & " + idle)
	c := p.shell(idle, func(s *specs.Spec) {
		s.Linux.Namespaces[0].Path = "/proc/" + strconv.Itoa(int(other.pid)) + "/ns/pid"
	})
	c.expectOutput("of the other\n", "cat /proc/1/root/mine")
	if out, _ := c.exec("ps"); !strings.Contains(out, "sleep 1111") || strings.Contains(out, "sleep 3600") {
		t.Errorf("it sees\n%s", out)
	}
	must(t, c.stop(30*time.Second)) // before the other, with which it would end by itself
}

func TestTheVMIsAsLargeAsCRIOSaysThePodIs(t *testing.T) {
	p := newPod(t, func(p *pod, _ *specs.Spec) {
		p.resources = `{"cpu_period":100000,"cpu_shares":512,"memory_limit_in_bytes":134217728}`
		p.shm = 16 << 10
	})
	c := p.shell(idle)
	out, _ := c.exec("awk '/MemTotal/ {print $2}' /proc/meminfo")
	// 128 MiB, the guest's reserve of 96 and 1/64, less what the kernel keeps.
	if kb, err := strconv.Atoi(strings.TrimSpace(out)); err != nil || kb < 170<<10 || kb > 226<<10 {
		t.Errorf("the guest has %s kB", out)
	}
	c.expectOutput("16384\n", "df -k /dev/shm | awk 'NR==2 {print $2}'")
	p.remove()
}

func TestCRIORestarts(t *testing.T) {
	before := census(t)
	p := newPod(t)
	c := p.shell("echo before; while [ ! -e /go ]; do sleep 0.1; done; echo after; read line; echo got $line; exit 3", withStdin)
	c.says("before")
	short := p.shell("sleep 1; exit 4")
	for _, c := range []*container{p.infra, c, short} {
		_ = c.client.Close()
		c.leave()
	}
	for _, c := range []*container{p.infra, c, short} {
		var err error
		c.runtimeVM, err = reconnect(c.id, c.bundle)
		must(t, err)
		s, err := c.status()
		must(t, err)
		if s.Stdout != c.stdout || s.Stderr != c.stderr || s.Stdin != c.stdin || s.Terminal != c.terminal || s.Pid != c.pid {
			t.Errorf("state %v", s)
		}
		must(t, c.open())
	}
	short.expectExit(4)
	c.expectOutput("", "touch /go")
	c.says("after")
	_, _ = c.in.Write([]byte("word\n"))
	c.says("got word")
	c.expectExit(3)
	p.remove()
	before.Expect(t)
}

func TestAKilledVMMEndsAllContainers(t *testing.T) {
	before := census(t)
	p := newPod(t)
	c := p.shell(idle)
	must(t, unix.Kill(int(p.infra.pid), unix.SIGKILL))
	c.expectExit(137)
	p.infra.expectExit(137)
	late := newID()
	if _, err := p.tryCreate(late, p.memberSpec(late, "true"), layer("image"), false); err == nil {
		t.Error("a container was created in a pod that has ended")
	}
	p.forget(late)
	p.remove()
	before.Expect(t)
}

func TestNothingIsLeftOfAKilledShim(t *testing.T) {
	before := census(t)
	p := newPod(t)
	c := p.shell(idle)
	waited := make(chan error, 1)
	go func() {
		_, err := c.wait("")
		waited <- err
	}()
	var state struct{ Shim struct{ PID int } }
	must(t, decode(filepath.Join(filepath.Dir(strings.TrimPrefix(readFile(t, filepath.Join(c.bundle, "address")), "unix://")), "state.json"), &state))
	must(t, unix.Kill(state.Shim.PID, unix.SIGKILL))
	if err := <-waited; !errdefs.IsNotFound(err) {
		t.Errorf("wait: %v", err)
	}
	eventually(t, "the VM ends with its shim", func() bool { return len(before.Since(t, "process")) == 0 })
	late := newID()
	if _, err := p.tryCreate(late, p.memberSpec(late, "true"), layer("image"), false); err == nil || !strings.Contains(err.Error(), "not running") {
		t.Errorf("a further container: %v", err)
	}
	p.unmount()
	for _, id := range []string{c.id, p.infra.id, late} {
		p.forget(id)
	}
	c.stdio.close()
	p.infra.stdio.close()
	// CRI-O never calls `delete`. The next pod's start takes away what only husk knows of.
	next := newPod(t)
	p.removeCgroup()
	next.remove()
	before.Expect(t)
}
