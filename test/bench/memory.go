package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/huskvm/husk/test/rig"
)

// guestMemory is what the rig's configuration gives a VM, in kB.
const guestMemory = 256 << 10

// sandboxes is how many containers sleep at the same time: PSS divides what they share, above all the binaries' text.
const sandboxes = 4

// memory measures what husk itself occupies for each sleeping container: the shim, and the VMM without its guest.
func (b *bench) memory() error {
	var ids []string
	defer func() {
		for _, id := range ids {
			_ = b.rig.Ctr(b.ctx, "task", "rm", "-f", id).Run()
			_ = b.rig.Ctr(b.ctx, "container", "rm", id).Run()
		}
	}()
	for i := range sandboxes {
		ids = append(ids, fmt.Sprintf("bench-memory-%d", i))
		out, err := b.rig.Ctr(b.ctx, "run", "-d", "--runtime", rig.Runtime, rig.Image, ids[i], "sleep", "1000").CombinedOutput()
		if err != nil {
			return fmt.Errorf("run %s: %w: %s", ids[i], err, out)
		}
	}
	time.Sleep(4 * time.Second) // for what is only needed at the start to be given back
	var shim, vmm, guest int
	for _, pid := range find("containerd-shim") {
		total, _, err := pss(pid)
		if err != nil {
			return err
		}
		shim += total
	}
	for _, pid := range find("husk-vmm") {
		total, memory, err := pss(pid)
		if err != nil {
			return err
		}
		vmm, guest = vmm+total-memory, guest+memory
	}
	fmt.Printf("%-32s shim %.1f MiB + VMM %.1f MiB = %.1f MiB (PSS, each of %d), beside the guest's %.1f MiB\n", "resident memory",
		mib(shim), mib(vmm), mib(shim+vmm), sandboxes, mib(guest))
	return nil
}

// mib is one sandbox's part.
func mib(kb int) float64 { return float64(kb) / 1024 / sandboxes }

// find returns the processes whose name begins with prefix.
func find(prefix string) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, f := range files {
		if comm, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(comm), prefix) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			pids = append(pids, pid)
		}
	}
	return pids
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
