//go:build amd64

package boot_test

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The test binary has two halves. The host half is the tests; this one is /init of the guests that they boot. It
// is told by a word of the command line, guestWord=…, what to do, and prints on the console.
const guestWord = "husk.test="

func TestMain(m *testing.M) {
	if os.Getpid() == 1 {
		guest()
	}
	os.Exit(m.Run())
}

// guest never returns.
func guest() {
	signal.Ignore()
	for _, dir := range []string{"/proc", "/sys"} {
		_ = os.Mkdir(dir, 0o755)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		fmt.Println("guest: mount /proc:", err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		fmt.Println("guest: mount /sys:", err)
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		fmt.Println("guest:", err)
	}
	what := ""
	for _, w := range strings.Fields(string(line)) {
		if v, ok := strings.CutPrefix(w, guestWord); ok {
			what = v
		}
	}
	switch what {
	case "report":
		report()
		restart()
	case "restart":
		restart()
	case "panic":
		fmt.Println("guest: goes")
		os.Exit(3) // the kernel panics when its init goes
	case "stay":
		fmt.Println("guest: stays")
		for {
			runtime.Gosched()
		}
	}
	fmt.Printf("guest: nothing to do in %q\n", line)
	restart()
}

func restart() {
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		fmt.Println("guest: restart:", err)
	}
	select {}
}

// report prints what the host half looks at.
func report() {
	fmt.Printf("guest: cpus=%d\n", runtime.NumCPU())
	meminfo, _ := os.ReadFile("/proc/meminfo")
	for l := range strings.Lines(string(meminfo)) {
		if f := strings.Fields(l); len(f) > 1 && f[0] == "MemTotal:" {
			fmt.Printf("guest: memory=%s\n", f[1])
		}
	}
	if n, err := unix.Getrandom(make([]byte, 16), unix.GRND_NONBLOCK); n != 16 {
		fmt.Println("guest: random:", err)
	} else {
		fmt.Println("guest: random=ready")
	}
	clock, _ := os.ReadFile("/sys/devices/system/clocksource/clocksource0/current_clocksource")
	fmt.Printf("guest: clock=%s\n", bytes.TrimSpace(clock))
	packages, cores := map[string]bool{}, map[string]bool{}
	for i := range runtime.NumCPU() {
		dir := fmt.Sprintf("/sys/devices/system/cpu/cpu%d/topology/", i)
		p, _ := os.ReadFile(dir + "physical_package_id")
		c, _ := os.ReadFile(dir + "core_id")
		packages[string(p)], cores[string(c)] = true, true
	}
	fmt.Printf("guest: packages=%d cores=%d\n", len(packages), len(cores))
	interrupts, _ := os.ReadFile("/proc/interrupts")
	for l := range strings.Lines(string(interrupts)) {
		fmt.Print("guest: irq ", l)
	}
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	fmt.Printf("guest: uptime=%dms\n", ts.Nano()/1e6)
	fmt.Println("guest: done")
}
