// Package footprint tells what a sandbox costs the host, from /proc alone: its vCPUs' time apart from what husk adds, and
// the guest's memory apart from the processes around it. The husk command prints it.
package footprint

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Footprint is a sandbox's. Times are since its start.
type Footprint struct {
	VCPUs       []time.Duration // what the guest ran, by vCPU
	Overhead    time.Duration   // the VMM, and QEMU and husk-net where they run, beside the vCPUs
	Guest       uint64          // bytes of the guest's memory that are in use on the host
	OverheadMem uint64          // bytes of the VMM, QEMU and husk-net, beside it
	Shim        time.Duration
	ShimMem     uint64
}

// Of reads what the processes use: the VMM with all that it has started, husk-net, and the shim. A process that has ended counts
// nothing.
func Of(shim, vmm int) (u Footprint, err error) {
	times := map[int]time.Duration{}
	for _, pid := range append(family(vmm), network(shim)...) {
		all, err := cpuTime(pid)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return u, err
		}
		for n, t := range vcpuTimes(pid) {
			times[n] += t
			all -= t
		}
		u.Overhead += max(all, 0) // the clock of a whole process is the coarser one
		guest, rest, err := memory(pid)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return u, err
		}
		u.Guest += guest
		u.OverheadMem += rest
	}
	for _, n := range slices.Sorted(maps.Keys(times)) {
		u.VCPUs = append(u.VCPUs, times[n])
	}
	if u.Shim, err = cpuTime(shim); err != nil {
		return u, err
	}
	guest, rest, err := memory(shim)
	u.ShimMem = guest + rest
	return u, err
}

// family is a process and its descendants.
func family(pid int) []int {
	list := []int{pid}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, path := range tasks {
		text, _ := os.ReadFile(path)
		for _, word := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				list = append(list, family(child)...)
			}
		}
	}
	return list
}

// network is the process beside a shim's VMM that a guest with the host's network has.
func network(shim int) []int {
	return slices.DeleteFunc(family(shim), func(pid int) bool {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		return string(name) != "husk-net\n"
	})
}

// tick is the unit of a process's times, in every Linux.
const tick = time.Second / 100

// cpuTime is what a process has run, all its threads together.
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name may have any characters in it.
	fields := strings.Fields(string(text)[strings.LastIndexByte(string(text), ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("parse /proc/%d/stat: %q", pid, text)
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * tick, errors.Join(err1, err2)
}

// vcpuTimes finds the vCPUs of a process by the names of their threads: husk-vmm's, and QEMU's with KVM and without.
func vcpuTimes(pid int) map[int]time.Duration {
	times := map[int]time.Duration{}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	for _, task := range tasks {
		name, _ := os.ReadFile(task + "/comm")
		n, ok := vcpuNumber(strings.TrimSpace(string(name)))
		if !ok {
			continue
		}
		text, _ := os.ReadFile(task + "/schedstat")
		ran, _, _ := strings.Cut(string(text), " ")
		if ns, err := strconv.ParseInt(ran, 10, 64); err == nil {
			times[n] = time.Duration(ns)
		}
	}
	return times
}

func vcpuNumber(thread string) (n int, ok bool) {
	for _, form := range []string{"vcpu %d", "CPU %d/KVM", "CPU %d/TCG"} {
		if _, err := fmt.Sscanf(thread, form, &n); err == nil {
			return n, true
		}
	}
	return 0, false
}

// memory is a process's part of what is in use, shared pages divided among those who have them.
func memory(pid int) (guest, rest uint64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return 0, 0, err
	}
	guest, rest = sumMappings(string(text))
	return guest, rest, nil
}

// sumMappings tells the guest's memory from the rest: it is QEMU's memfd, or anonymous memory that is kept out of core
// dumps.
func sumMappings(smaps string) (guest, rest uint64) {
	var name string
	var pss uint64
	for line := range strings.Lines(smaps) {
		key, value, _ := strings.Cut(line, ":")
		f := strings.Fields(line)
		switch {
		case len(f) >= 5 && strings.Contains(f[0], "-"): // the first of a mapping's
			name, pss = strings.Join(f[5:], " "), 0
		case key == "Pss":
			kib, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			pss = kib << 10
		case key == "VmFlags": // the last
			undumped := name == "" && slices.Contains(strings.Fields(value), "dd")
			if undumped || strings.HasPrefix(name, "/memfd:memory-backend-memfd") {
				guest += pss
			} else {
				rest += pss
			}
		}
	}
	return guest, rest
}
