//go:build amd64

package boot_test

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/huskvm/husk/vmm/arch"
	"github.com/huskvm/husk/vmm/boot"
	"github.com/huskvm/husk/vmm/bus"
	"github.com/huskvm/husk/vmm/kvm"
	"github.com/huskvm/husk/vmm/legacy"
	"github.com/huskvm/husk/vmm/memory"
	"github.com/huskvm/husk/vmm/vcpu"
)

// These tests boot a real kernel on real KVM, with nothing but a serial port. They skip where there is none; in the
// KVM test host (test/host) there is. HUSK_TEST_KERNEL and HUSK_TEST_BZIMAGE name the kernel in its two forms;
// HUSK_TEST_CONSOLE=1 shows all that the guests print, and when.

func needKVM(t *testing.T) {
	t.Helper()
	if err := kvm.Probe("/dev/kvm", arch.Required...); err != nil {
		t.Skipf("no usable KVM: %v", err)
	}
}

func kernel(t *testing.T, variable, fallback string) *os.File {
	t.Helper()
	needKVM(t)
	path := os.Getenv(variable)
	if path == "" {
		path = fallback
	}
	if path == "" {
		t.Skipf("%s names no kernel", variable)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Skipf("no guest kernel (make kernel): %v", err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func elfKernel(t *testing.T) *os.File { return kernel(t, "HUSK_TEST_KERNEL", "../../bin/husk-kernel") }

// vm is a machine as small as can be.
type vm struct {
	kernel   *os.File
	protocol arch.Protocol
	cpus     int
	memory   uint64
	cmdline  string
	while    func(s *vcpu.Set, console *transcript) // runs beside the guest
}

// transcript is the guest's console.
type transcript struct {
	mu    sync.Mutex
	text  bytes.Buffer
	start time.Time
	lines []time.Duration // when each line began
}

func (c *transcript) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.text.Len(); n == 0 || c.text.Bytes()[n-1] == '\n' {
		c.lines = append(c.lines, time.Since(c.start))
	}
	return c.text.Write(p)
}

func (c *transcript) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.ReplaceAll(c.text.String(), "\r", "")
}

// timed is the console with the time at which each line began.
func (c *transcript) timed() string {
	var b strings.Builder
	i := 0
	for l := range strings.Lines(c.String()) {
		if i < len(c.lines) {
			fmt.Fprintf(&b, "%8.1f ", float64(c.lines[i].Microseconds())/1000)
		}
		b.WriteString(l)
		i++
	}
	return b.String()
}

// value is what the guest reported as name=value.
func (c *transcript) value(t *testing.T, name string) string {
	t.Helper()
	m := regexp.MustCompile(`guest: .*\b` + name + `=(\S+)`).FindStringSubmatch(c.String())
	if m == nil {
		t.Fatalf("the guest did not report %s:\n%s", name, c)
	}
	return m[1]
}

// await waits until the console has text.
func (c *transcript) await(text string) bool {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if strings.Contains(c.String(), text) {
			return true
		}
	}
	return false
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run boots the machine and waits for its end.
func (v vm) run(t *testing.T) (vcpu.End, *transcript, map[string]uint64) {
	t.Helper()
	console := &transcript{start: time.Now()}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	must(t, err)
	sys, err := kvm.New(f)
	must(t, err)
	defer sys.Close()
	m, err := sys.CreateVM(0)
	must(t, err)
	defer m.Close()
	platform, err := arch.NewPlatform(sys, m, v.cpus)
	must(t, err)

	ranges, err := arch.MemoryRanges(v.memory)
	must(t, err)
	var regions []memory.Region
	for i, r := range ranges {
		b, err := memory.Map(r.Size)
		must(t, err)
		defer func() { _ = memory.Unmap(b) }()
		must(t, m.SetMemory(uint32(i), r.Base, b, 0))
		regions = append(regions, memory.Region{Base: r.Base, Bytes: b})
	}
	mem, err := memory.NewSpace(regions...)
	must(t, err)

	var cpus []vcpu.CPU
	var first *kvm.VCPU
	for id := range v.cpus {
		c, err := platform.AddCPU(id)
		must(t, err)
		defer c.Close()
		if id == 0 {
			first = c
		}
		cpus = append(cpus, c)
	}
	must(t, arch.WriteTables(mem, v.cpus))
	cmdline := v.cmdline
	if os.Getenv("HUSK_TEST_CONSOLE") == "" {
		cmdline += " quiet" // a byte printed is an exit or three
	}
	line, err := arch.Cmdline(arch.KernelWords(true, nil), cmdline)
	must(t, err)
	image, err := boot.NewImage(v.kernel)
	must(t, err)
	entry, err := boot.Load(mem, boot.Params{
		Kernel: image, Initramfs: initramfs(t), Cmdline: line, Seed: make([]byte, 64), Protocol: v.protocol,
	})
	must(t, err)
	must(t, arch.Enter(first, mem, entry))

	var set *vcpu.Set
	var ports, mmio bus.Bus
	interrupt := func() {
		_ = m.SetIRQLine(arch.SerialIRQ, true)
		_ = m.SetIRQLine(arch.SerialIRQ, false)
	}
	must(t, ports.Insert(legacy.SerialPort, legacy.SerialPorts, legacy.NewSerial(console, interrupt)))
	must(t, ports.Insert(legacy.ClockPort, legacy.ClockPorts, legacy.NewClock(time.Now)))
	must(t, ports.Insert(legacy.ResetPort, legacy.ResetPorts, legacy.NewReset(func() {
		set.End(vcpu.End{Reason: vcpu.Reset, CPU: vcpu.NoCPU})
	})))
	set = vcpu.NewSet(cpus, &mmio, &ports)
	set.Start()
	defer set.Stop()
	if v.while != nil {
		v.while(set, console)
	}
	select {
	case <-set.Done():
	case <-time.After(2 * time.Minute):
		t.Fatalf("the guest does not end; its console:\n%s", console.timed())
	}
	t.Logf("ended: %v; exits %v", set.Result(), set.Exits())
	if os.Getenv("HUSK_TEST_CONSOLE") != "" {
		t.Logf("console, in ms since before the VM was made:\n%s", console.timed())
	}
	return set.Result(), console, set.Exits()
}

// initramfs is a cpio archive with this test binary as /init.
func initramfs(t *testing.T) boot.Image {
	t.Helper()
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	var b bytes.Buffer
	entry := func(name string, mode, size int) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			0, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0)
		b.WriteString(name + "\x00")
		b.Write(make([]byte, -b.Len()&3))
	}
	entry("init", 0o100755, len(self))
	b.Write(self)
	b.Write(make([]byte, -b.Len()&3))
	entry("TRAILER!!!", 0, 0)
	return boot.Image{File: bytes.NewReader(b.Bytes()), Size: int64(b.Len())}
}

func TestGuestsComeUp(t *testing.T) {
	for _, c := range []struct {
		name     string
		kernel   func(*testing.T) *os.File
		protocol arch.Protocol
		cpus     int
		memory   uint64
	}{
		{"ELF/1 vCPU", elfKernel, 0, 1, 256 * mib},
		{"ELF/2 vCPUs", elfKernel, 0, 2, 256 * mib},
		{"ELF/4 vCPUs", elfKernel, 0, 4, 512 * mib},
		{"ELF/memory above 4 GiB", elfKernel, 0, 1, 3584 * mib},
		{"PVH", elfKernel, arch.PVH, 2, 256 * mib},
		{"bzImage", func(t *testing.T) *os.File { return kernel(t, "HUSK_TEST_BZIMAGE", "") }, 0, 1, 256 * mib},
	} {
		t.Run(c.name, func(t *testing.T) {
			end, console, _ := vm{
				kernel: c.kernel(t), protocol: c.protocol, cpus: c.cpus, memory: c.memory, cmdline: guestWord + "report",
			}.run(t)
			if end.Reason != vcpu.Reset {
				t.Fatalf("ended with %v:\n%s", end, console.timed())
			}
			if got := console.value(t, "cpus"); got != strconv.Itoa(c.cpus) {
				t.Errorf("the guest has %s CPUs, want %d:\n%s", got, c.cpus, console)
			}
			kib, err := strconv.ParseUint(console.value(t, "memory"), 10, 64)
			must(t, err)
			// The kernel keeps its image and the page descriptors for itself.
			if got := kib << 10; got > c.memory || got < c.memory-c.memory/32-48*mib {
				t.Errorf("the guest has %d MiB of %d", got/mib, c.memory/mib)
			}
			if console.value(t, "packages") != "1" || console.value(t, "cores") != strconv.Itoa(c.cpus) {
				t.Errorf("the guest's vCPUs are not the cores of one package:\n%s", console)
			}
			if console.value(t, "random") != "ready" {
				t.Error("the guest's random numbers are not ready at its init")
			}
			t.Logf("clock %s, uptime at init %s", console.value(t, "clock"), console.value(t, "uptime"))
		})
	}
}

func TestAPanicIsAResetAtOnce(t *testing.T) {
	end, console, _ := vm{kernel: elfKernel(t), cpus: 2, memory: 256 << 20, cmdline: guestWord + "panic"}.run(t)
	if end.Reason != vcpu.Reset || !strings.Contains(console.String(), "Kernel panic - not syncing: Attempted to kill init") {
		t.Errorf("ended with %v:\n%s", end, console.timed())
	}
}

func TestATripleFaultIsNotAReset(t *testing.T) {
	end, console, _ := vm{kernel: elfKernel(t), cpus: 1, memory: 256 << 20, cmdline: guestWord + "restart reboot=t"}.run(t)
	if end.Reason != vcpu.TripleFault {
		t.Errorf("ended with %v:\n%s", end, console.timed())
	}
}

func TestAPausedGuestGoesOnAndABusyOneIsStopped(t *testing.T) {
	var after vcpu.End
	end, _, _ := vm{
		kernel: elfKernel(t), cpus: 2, memory: 256 << 20, cmdline: guestWord + "stay",
		while: func(s *vcpu.Set, console *transcript) {
			if !console.await("guest: stays") {
				t.Errorf("the guest does not come up:\n%s", console.timed())
			}
			for range 20 {
				must(t, s.Pause())
				must(t, s.Resume())
			}
			s.Stop()
			after = s.Result()
		},
	}.run(t)
	if end.Reason != vcpu.Stopped || after != end {
		t.Errorf("ended with %v", end)
	}
}

// A fault that nobody handles ends the guest with a reason, not with a hang.
func TestAGuestWithoutHandlersEnds(t *testing.T) {
	needKVM(t)
	f, err := os.CreateTemp(t.TempDir(), "kernel")
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	ud2 := []byte{0x0f, 0x0b}
	_, err = f.Write(elf(segment{phys: 1 << 20, data: ud2}))
	must(t, err)
	if end, _, _ := (vm{kernel: f, cpus: 1, memory: 64 << 20}).run(t); end.Reason != vcpu.TripleFault {
		t.Errorf("ended with %v", end)
	}
}
