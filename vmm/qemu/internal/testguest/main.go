// Command testguest is /init of the guests that the tests of package qemu boot. A word of the kernel's command line,
// husk.test=…, tells it what to do; what it has to say goes to the console.
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	fmt.Println("guest: up")
	for _, m := range []struct{ dir, kind string }{{"/proc", "proc"}, {"/sys", "sysfs"}} {
		_ = os.Mkdir(m.dir, 0o755)
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil {
			fmt.Println("guest: mount", m.dir, err)
		}
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		fmt.Println("guest:", err)
	}
	what := ""
	for _, w := range strings.Fields(string(line)) {
		if v, ok := strings.CutPrefix(w, "husk.test="); ok {
			what = v
		}
	}
	switch what {
	case "report":
		report(string(line))
	case "panic":
		if err := os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0o200); err != nil {
			fmt.Println("guest: sysrq:", err)
		}
	case "echo":
		for s := bufio.NewScanner(os.Stdin); s.Scan(); {
			fmt.Printf("guest: heard %q\n", s.Text())
		}
	case "stay":
		fmt.Println("guest: stays")
		for n := 0; ; n++ {
			fmt.Println("guest: tick", n)
			time.Sleep(20 * time.Millisecond)
		}
	}
	_ = unix.IoctlSetInt(1, unix.TCSBRK, 1) // tcdrain: let the console catch up
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		fmt.Println("guest: reboot:", err)
	}
	select {}
}

// report prints what the tests look at.
func report(cmdline string) {
	fmt.Print("guest: cmdline=", cmdline)
	fmt.Printf("guest: cpus=%d\n", runtime.NumCPU())
	meminfo, _ := os.ReadFile("/proc/meminfo")
	for l := range strings.Lines(string(meminfo)) {
		if f := strings.Fields(l); len(f) > 1 && f[0] == "MemTotal:" {
			fmt.Printf("guest: memory=%s\n", f[1])
		}
	}
	clock, _ := os.ReadFile("/sys/devices/system/clocksource/clocksource0/current_clocksource")
	fmt.Printf("guest: clock=%s\n", strings.TrimSpace(string(clock)))
	fmt.Printf("guest: year=%d\n", time.Now().Year())
	devices, _ := os.ReadDir("/sys/bus/virtio/devices")
	for _, d := range devices {
		id, _ := os.ReadFile("/sys/bus/virtio/devices/" + d.Name() + "/device")
		fmt.Printf("guest: virtio %s\n", strings.TrimSpace(string(id)))
	}
	fmt.Println("guest: done")
}
