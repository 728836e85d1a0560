package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// guestMemory is what the rig's configuration gives a VM, in kB.
const guestMemory = 256 << 10

// memory measures what husk itself occupies while a container sleeps: the shim, and the VMM without its guest.
func (b *bench) memory() error {
	const id = "bench-memory"
	done := make(chan error, 1)
	go func() {
		_, err := b.rig.Run(b.ctx, id, nil, "sh", "-c", "echo up; sleep 1000")
		done <- err
	}()
	var shim, vmm int
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		shim, vmm = find("containerd-shim"), find("husk-vmm")
		out, err := b.rig.Ctr(b.ctx, "task", "ls").Output()
		if err == nil && shim != 0 && vmm != 0 && strings.Contains(string(out), "RUNNING") {
			break
		}
		if time.Now().After(end) {
			return errors.New("the container does not come up")
		}
	}
	time.Sleep(2 * time.Second) // for what is only needed at the start to be given back
	shimPSS, _, err := pss(shim)
	if err != nil {
		return err
	}
	vmmPSS, guest, err := pss(vmm)
	if err != nil {
		return err
	}
	fmt.Printf("%-32s shim %.1f MiB + VMM %.1f MiB = %.1f MiB (PSS), beside the guest's %.1f MiB\n", "resident memory",
		mib(shimPSS), mib(vmmPSS-guest), mib(shimPSS+vmmPSS-guest), mib(guest))
	if err := b.rig.Ctr(b.ctx, "task", "kill", "-s", "SIGKILL", id).Run(); err != nil {
		return err
	}
	return <-done
}

func mib(kb int) float64 { return float64(kb) / 1024 }

// find returns the pid of a process whose name begins with prefix; 0 when there is none.
func find(prefix string) int {
	files, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, f := range files {
		if comm, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(comm), prefix) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			return pid
		}
	}
	return 0
}

// pss sums the proportional set size of a process in kB, and apart from it that of the guest's memory: the one
// mapping that is exactly as large as the guest.
func pss(pid int) (total, guest int, err error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	size := 0
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) != 3 || fields[2] != "kB" {
			continue
		}
		kb, err := strconv.Atoi(fields[1])
		if err != nil {
			return 0, 0, err
		}
		switch fields[0] {
		case "Size:":
			size = kb
		case "Pss:":
			total += kb
			if size == guestMemory {
				guest += kb
			}
		}
	}
	if guest == 0 && strings.HasPrefix(comm(pid), "husk-vmm") {
		return 0, 0, fmt.Errorf("process %d has no mapping of %d kB: the guest's memory is not found", pid, guestMemory)
	}
	return total, guest, nil
}

func comm(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return string(b)
}
