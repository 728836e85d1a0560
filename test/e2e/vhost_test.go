package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const vhostDevice = "/dev/vhost-net"

// startWithVhost starts a web server with two vCPUs whose packets the host's kernel carries, where it can.
func startWithVhost(t *testing.T, ns *netns) *background {
	t.Helper()
	config := strings.Replace(configuration(""), fmt.Sprintf("vhost_net = %q", *vhostNet), `vhost_net = "auto"`, 1)
	return start(t, append(ns.flags(guestFlags(t, "--annotation", "io.husk.vcpus=2")...), withConfigFlags(t, config)...), webServer()...)
}

// vhostThreads counts the kernel's threads that carry a VMM's packets: processes of the kernel's, or, since Linux 6.4,
// threads of the VMM. They are named after the thread that has asked for them.
func vhostThreads(t *testing.T, askers []string) (n int) {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/task/*/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		comm, _ := os.ReadFile(name)
		if asker, ok := strings.CutPrefix(strings.TrimSpace(string(comm)), "vhost-"); ok && slices.Contains(askers, asker) {
			n++
		}
	}
	return n
}

// threads are the ids of a process's.
func threads(t *testing.T, pid int) (ids []string) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil || len(tasks) == 0 {
		t.Fatalf("process %d has no threads: %v", pid, err)
	}
	for _, task := range tasks {
		ids = append(ids, filepath.Base(task))
	}
	return ids
}

func TestTheHostsKernelCarriesThePackets(t *testing.T) {
	onlyOn(t, "kvm")
	if !exists(vhostDevice) {
		t.Skipf("no %s: modprobe vhost_net", vhostDevice)
	}
	ns := newNetns(t)
	own, gateway := ns.add("eth0", bridge(t, 1500)).address(t, false)
	before := ns.traces()
	url, sum := hostServer(t, gateway)
	c := startWithVhost(t, ns)
	pid := pidsOf(t, c.id, vmmName)[0]
	fetch := func(t *testing.T, cpu int) {
		t.Helper()
		if got := c.exec(t, "sh", "-c", fmt.Sprintf("taskset %d wget -q -O- %s | sha256sum", 1<<cpu, url)); !strings.HasPrefix(got, sum) {
			t.Errorf("processor %d: the sum is %s, want %s", cpu, got, sum)
		}
	}
	checkBig(t, "http://"+own)
	askers := threads(t, pid)
	if n := vhostThreads(t, askers); n != 2 {
		t.Errorf("%d threads of vhost carry the packets of two pairs", n)
	}
	fetch(t, 0)
	fetch(t, 1)
	checkUDP(t, c, gateway)

	t.Run("a paused guest gets none", func(t *testing.T) {
		taken := func() string { return ns.run("sh", "-c", "cat /sys/class/net/husk*-0/statistics/tx_packets") }
		ctr(t, "task", "pause", c.id)
		was := taken()
		conn, err := net.Dial("udp", net.JoinHostPort(own, "9"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for range 100 {
			_, _ = conn.Write([]byte("datagram"))
		}
		if now := taken(); now != was {
			t.Errorf("packets were taken: %s, and before %s", now, was)
		}
		ctr(t, "task", "resume", c.id)
		eventually(t, "the packets are taken", func() bool { return taken() != was })
		fetch(t, 0)
		fetch(t, 1)
	})
	t.Run("through a pause", func(t *testing.T) {
		const times = 2
		c.exec(t, "sh", "-c", fmt.Sprintf(`(for i in $(seq %d); do wget -q -O- %s | sha256sum; done >/sums) >/dev/null 2>&1 </dev/null &`, times, url))
		for range 5 {
			ctr(t, "task", "pause", c.id)
			ctr(t, "task", "resume", c.id)
		}
		var got string
		for end := time.Now().Add(deadline); strings.Count(got, "\n") < times; {
			if got = c.exec(t, "cat", "/sums"); time.Now().After(end) {
				t.Fatalf("after %s: %q", deadline, got)
			}
		}
		if strings.Count(got, sum) != times {
			t.Errorf("the sums are %s, want %s", got, sum)
		}
		checkBig(t, "http://"+own)
	})
	_ = syscall.Kill(pid, syscall.SIGKILL)
	c.wait(t)
	if n := vhostThreads(t, askers); n != 0 {
		t.Errorf("%d threads of vhost are left", n)
	}
	_ = shared.Ctr(testContext(t), "task", "rm", "-f", c.id).Run()
	ns.unchanged(before)
}

// Where the kernel has none, the VMM says so once and does it itself.
func TestWithoutVhostTheVMMCarriesThePackets(t *testing.T) {
	onlyOn(t, "kvm")
	if hidden := vhostDevice + ".hidden"; exists(vhostDevice) {
		if err := os.Rename(vhostDevice, hidden); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Rename(hidden, vhostDevice) })
	}
	ns, network := newNetns(t), bridge(t, 1500)
	own, _ := ns.add("eth0", network).address(t, false)
	ns.add("net1", network)
	c := startWithVhost(t, ns)
	checkBig(t, "http://"+own)
	if n := vhostThreads(t, threads(t, pidsOf(t, c.id, vmmName)[0])); n != 0 {
		t.Errorf("%d threads of vhost", n)
	}
	logs, _ := filepath.Glob("/run/husk/*/vmm.log")
	said := 0
	for _, name := range logs {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		said += strings.Count(string(text), vhostDevice)
	}
	if said != 1 {
		t.Errorf("the log names %s %d times", vhostDevice, said)
	}
}
