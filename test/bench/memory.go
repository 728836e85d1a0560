package main

import (
	"bufio"
	"encoding/json"
	"errors"
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

// settle is how long they are left alone before they are measured.
const settle = 15 * time.Second

// busy is a container that has filled a good half of what it may have, and sleeps then as well.
const busy = "dd if=/dev/zero of=/dev/shm/f bs=1M count=60 && dd if=/dev/zero of=/run/f bs=1M count=60 && dd if=/dev/zero of=/f bs=1M count=60 && cat /f >/dev/null; sleep 1000"

// memory measures what a sandbox occupies beside what its container uses: the shim, the VMM, QEMU where that runs the
// guest, and of the guest's memory what its kernel and agent have.
func (b *bench) memory() error {
	return errors.Join(b.occupied("a container that sleeps", "sleep", "1000"), b.occupied("one that has filled 120 MiB", "sh", "-c", busy))
}

func (b *bench) occupied(what string, command ...string) error {
	var ids []string
	defer func() {
		for _, id := range ids {
			_ = b.rig.Ctr(b.ctx, "task", "rm", "-f", id).Run()
			_ = b.rig.Ctr(b.ctx, "container", "rm", id).Run()
		}
	}()
	for i := range sandboxes {
		ids = append(ids, fmt.Sprintf("bench-memory-%d", i))
		args := append([]string{"run", "-d", "--runtime", rig.Runtime, rig.Image, ids[i]}, command...)
		out, err := b.rig.Ctr(b.ctx, args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("run %s: %w: %s", ids[i], err, out)
		}
	}
	time.Sleep(settle) // for what is only needed at the start to be given back
	parts := map[string]int{}
	guest, used := 0, 0
	for _, process := range []string{"containerd-shim", "husk-vmm", "husk-qemu"} {
		for _, pid := range find(process) {
			total, memory, err := pss(pid)
			if err != nil {
				return err
			}
			parts[process], guest = parts[process]+total-memory, guest+memory
		}
	}
	for _, id := range ids {
		n, err := b.usage(id)
		if err != nil {
			return err
		}
		used += n
	}
	fmt.Printf("%-32s shim %.1f MiB, VMM %.1f MiB, QEMU %.1f MiB, guest's kernel and agent %.1f MiB, beside %.1f MiB of the container (PSS, each of %d)\n",
		what, mib(parts["containerd-shim"]), mib(parts["husk-vmm"]), mib(parts["husk-qemu"]), mib(guest-used), mib(used), sandboxes)
	return nil
}

// usage is a container's memory in kB, as its guest counts it.
func (b *bench) usage(id string) (int, error) {
	out, err := b.rig.Ctr(b.ctx, "task", "metrics", "--format", "json", id).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("ask for the memory of %s: %s", id, out)
	}
	var metrics struct {
		Memory struct {
			Usage json.RawMessage `json:"usage"` // a number, or with cgroup version 1 an object that has it
		} `json:"memory"`
	}
	if err := json.Unmarshal(out, &metrics); err != nil {
		return 0, fmt.Errorf("parse the metrics of %s: %w: %s", id, err, out)
	}
	n := 0
	if json.Unmarshal(metrics.Memory.Usage, &n) != nil {
		var v1 struct{ Usage int }
		if err := json.Unmarshal(metrics.Memory.Usage, &v1); err != nil {
			return 0, fmt.Errorf("parse the metrics of %s: %w: %s", id, err, out)
		}
		n = v1.Usage
	}
	return n >> 10, nil
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
// mapping that is exactly as large as the guest, or those of the file that QEMU shares with the VMM.
func pss(pid int) (total, guest int, err error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	size, shared := 0, false
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) > 3 {
			shared = strings.Contains(s.Text(), "/memfd:memory-backend-memfd")
		}
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
			if size == guestMemory || shared {
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
