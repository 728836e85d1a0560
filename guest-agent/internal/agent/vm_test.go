package agent

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	"github.com/mdlayher/vsock"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// With these environment variables the tests run in VMs: the guest kernel and the initramfs. The machine needs
// /dev/kvm, /dev/vhost-vsock, QEMU and virtiofsd, which the test host has.
const (
	vmKernel    = "HUSK_TEST_KERNEL"
	vmInitramfs = "HUSK_TEST_INITRAMFS"
)

// virtiofsd is where Debian's qemu-system-common has it.
const virtiofsd = "/usr/lib/qemu/virtiofsd"

var nextCID atomic.Uint32

// startVM boots the agent, with the test's directory as its shares, and takes the connection it makes.
func (g *guest) startVM(kernel string) net.Conn {
	t := g.t
	t.Helper()
	agentPort, streamPort := g.listen(1024), g.listen(1025)
	go g.accept(streamPort)

	fs := filepath.Join(t.TempDir(), "fs")
	g.background(virtiofsd, "--socket-path="+fs, "-o", "source="+g.dir, "-o", "cache=auto", "-o", "sandbox=chroot", "-f")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(fs); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("virtiofsd has made no socket")
		}
	}
	qemu := g.background("qemu-system-x86_64", "-M", "microvm,acpi=off,rtc=off,memory-backend=mem", "-accel", "kvm", "-cpu", "host",
		"-m", "512", "-smp", "2", "-nodefaults", "-no-user-config", "-nographic", "-no-reboot",
		"-global", "virtio-mmio.force-legacy=false", "-object", "memory-backend-memfd,id=mem,size=512M,share=on",
		"-serial", "file:"+filepath.Join(g.dir, "console"),
		"-chardev", "socket,id=fs,path="+fs, "-device", "vhost-user-fs-device,chardev=fs,tag=husk",
		"-device", fmt.Sprintf("vhost-vsock-device,guest-cid=%d", 100+nextCID.Add(1)),
		"-kernel", kernel, "-initrd", os.Getenv(vmInitramfs), "-append", "console=ttyS0 loglevel=5 panic=-1 reboot=t")

	t.Cleanup(func() {
		if t.Failed() {
			console, _ := os.ReadFile(filepath.Join(g.dir, "console"))
			t.Logf("console:\n%s", console[max(0, len(console)-4096):])
		}
	})
	_ = agentPort.SetDeadline(time.Now().Add(60 * time.Second))
	conn, err := agentPort.Accept()
	if err != nil {
		t.Fatalf("the guest does not dial: %v", err)
	}
	// When the connection ends, the guest must end by itself.
	t.Cleanup(func() {
		conn.Close()
		select {
		case <-qemu:
		case <-time.After(20 * time.Second):
			t.Error("the guest goes on after the host has gone")
		}
	})
	return conn
}

func (g *guest) listen(port uint32) *vsock.Listener {
	g.t.Helper()
	l, err := vsock.Listen(port, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { l.Close() })
	return l
}

// background runs a program until the test's end; the channel is closed when it ends.
func (g *guest) background(name string, args ...string) <-chan struct{} {
	g.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	g.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
	})
	return done
}

// inVM skips what only the guest's kernel can show.
func inVM(t *testing.T) *guest {
	t.Helper()
	if os.Getenv(vmKernel) == "" {
		t.Skip("needs a VM: set " + vmKernel)
	}
	return newGuest(t)
}

func TestTheGuestBootsAndTellsItsTimeline(t *testing.T) {
	g := inVM(t)
	resp, err := g.client.Handshake(t.Context(), &agentv1.HandshakeRequest{Version: 1, Now: time.Now().UnixNano()})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	last := uint64(0)
	for _, m := range resp.Marks {
		t.Logf("%-12s %v", m.Name, time.Duration(m.Nanoseconds))
		if m.Nanoseconds < last {
			t.Errorf("%s is before what was before it", m.Name)
		}
		names, last = append(names, m.Name), m.Nanoseconds
	}
	if d := cmp.Diff([]string{"init", "mounts", "connected", "handshake", "ready"}, names); d != "" {
		t.Error(d)
	}
}

func TestTheGuestsClockIsTheHosts(t *testing.T) {
	g := inVM(t)
	now := time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)
	if _, err := g.client.SyncClock(t.Context(), &agentv1.SyncClockRequest{Offset: int64(time.Until(now))}); err != nil {
		t.Fatal(err)
	}
	if got := g.run(g.spec("busybox", "date", "-u", "+%Y-%m-%d %H:%M")); got.stdout != "2031-02-03 04:05\n" {
		t.Errorf("got %+v", got)
	}
}

func TestLimitsHoldAndOOMKillsAreTold(t *testing.T) {
	g := inVM(t)
	s := g.spec("sh", "-c", "cat /dev/zero | tail >/dev/null; exit $?")
	s.Linux.Resources = &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: new(int64(32 << 20)), Swap: new(int64(32 << 20))},
		Pids:   &specs.LinuxPids{Limit: new(int64(50))},
		CPU:    &specs.LinuxCPU{Quota: new(int64(50000)), Period: new(uint64(100000)), Shares: new(uint64(512)), Cpus: "0"},
	}
	c, err := g.create(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	if got := c.outcome(); got.code != 137 {
		t.Errorf("got %+v", got)
	}
	event, err := g.client.NextEvent(t.Context(), &agentv1.NextEventRequest{})
	if err != nil || event.GetOom().GetContainerId() != c.id {
		t.Errorf("event %v, %v", event, err)
	}
	stats, err := g.client.Stats(t.Context(), &agentv1.StatsRequest{ContainerId: c.id})
	if err != nil || stats.Memory.Limit != 32<<20 || stats.Pids.Limit != 50 || stats.Memory.Events["oom_kill"] == 0 {
		t.Errorf("stats %v, %v", stats, err)
	}
	if _, err := c.delete(); err != nil {
		t.Error(err)
	}
}

func TestUpdateChangesLimits(t *testing.T) {
	g := inVM(t)
	c := g.sleeper()
	r := mustJSON(t, specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(64 << 20))}})
	_, err := g.client.UpdateContainer(t.Context(), &agentv1.UpdateContainerRequest{ContainerId: c.id, Resources: r})
	if err != nil {
		t.Fatal(err)
	}
	stats, err := g.client.Stats(t.Context(), &agentv1.StatsRequest{ContainerId: c.id})
	if err != nil || stats.Memory.Limit != 64<<20 {
		t.Errorf("stats %v, %v", stats, err)
	}
	c.end()
}

func TestAPanicOfTheKernelEndsTheGuest(t *testing.T) {
	g := inVM(t)
	s := g.spec("sh", "-c", "echo c > /proc/sysrq-trigger")
	s.Linux.ReadonlyPaths = nil
	c, err := g.create(s)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.start()
	_, err = g.client.WaitProcess(t.Context(), &agentv1.WaitProcessRequest{ContainerId: c.id})
	mustFail(t, err, "closed")
}

func TestShutdownEndsTheGuest(t *testing.T) {
	g := inVM(t)
	_, err := g.client.Shutdown(t.Context(), &agentv1.ShutdownRequest{})
	mustFail(t, err, "closed")
}

func TestExecEntersTheGroupThatAContainerMadeForItself(t *testing.T) {
	g := inVM(t)
	s := g.spec("sh", "-c", `cd /sys/fs/cgroup && mkdir in && echo 1 > in/cgroup.procs && echo +pids > cgroup.subtree_control &&
		echo ready && while :; do sleep 0.05; done`)
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup"})
	c, err := g.create(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	c.line("ready\n")
	if got := c.mustExec("cat", "/proc/self/cgroup").finish(); got.stdout != "0::/in\n" {
		t.Errorf("got %+v", got)
	}
	c.end()
}
