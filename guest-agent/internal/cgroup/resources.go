package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// setting is one file of the group and what to write to it.
type setting struct {
	file, value string
	// optional: where the kernel has no such file, the value is what holds anyway.
	optional bool
	// fallback is written instead where the kernel has no such file.
	fallback *setting
	// early: it may be refused, since a later one makes room for it and it comes again.
	early bool
}

// Apply sets the limits that r names and leaves the others as they are. What only version 1 knew is ignored, as by
// every runtime on version 2, and said in the log by package container.
func (g *Group) Apply(r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	if err := g.checkMemory(r.Memory); err != nil {
		return err
	}
	list, err := settings(r)
	if err != nil {
		return err
	}
	for _, s := range list {
		if err := g.set(s); err != nil {
			return err
		}
	}
	return nil
}

func (g *Group) set(s setting) error {
	err := write(filepath.Join(g.dir, s.file), s.value)
	missing := errors.Is(err, fs.ErrNotExist)
	switch {
	case err == nil, s.early, missing && s.optional:
		return nil
	case missing && s.fallback != nil:
		return g.set(*s.fallback)
	case missing:
		return fmt.Errorf("set %s to %q: the guest's kernel has no such limit: %w", s.file, s.value, err)
	}
	return fmt.Errorf("set %s to %q: %w", s.file, s.value, err)
}

func (g *Group) checkMemory(m *specs.LinuxMemory) error {
	if m == nil || m.CheckBeforeUpdate == nil || !*m.CheckBeforeUpdate || m.Limit == nil || *m.Limit < 0 {
		return nil
	}
	usage, err := readUint(filepath.Join(g.dir, "memory.current"))
	if err != nil {
		return fmt.Errorf("check memory usage: %w", err)
	}
	if uint64(*m.Limit) < usage {
		return fmt.Errorf("memory limit %d is below the usage %d", *m.Limit, usage)
	}
	return nil
}

func settings(r *specs.LinuxResources) ([]setting, error) {
	memory, err := memorySettings(r.Memory)
	if err != nil {
		return nil, err
	}
	list := slices.Concat(cpuSettings(r.CPU), memory, ioSettings(r.BlockIO), rdmaSettings(r.Rdma))
	if r.Pids != nil && r.Pids.Limit != nil {
		list = append(list, setting{file: "pids.max", value: limit(*r.Pids.Limit, *r.Pids.Limit <= 0)})
	}
	for _, h := range r.HugepageLimits {
		if strings.ContainsAny(h.Pagesize, "/.") {
			return nil, fmt.Errorf("huge page size %q", h.Pagesize)
		}
		value := strconv.FormatUint(h.Limit, 10)
		list = append(list,
			setting{file: "hugetlb." + h.Pagesize + ".max", value: value},
			setting{file: "hugetlb." + h.Pagesize + ".rsvd.max", value: value, optional: true})
	}
	for _, file := range slices.Sorted(maps.Keys(r.Unified)) {
		if !strings.Contains(file, ".") || strings.Contains(file, "/") {
			return nil, fmt.Errorf("unified resource %q is not a cgroup file", file)
		}
		list = append(list, setting{file: file, value: r.Unified[file]})
	}
	return list, nil
}

func limit(n int64, unlimited bool) string {
	if unlimited {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

func cpuSettings(c *specs.LinuxCPU) []setting {
	if c == nil {
		return nil
	}
	var list []setting
	if c.Idle != nil {
		list = append(list, setting{file: "cpu.idle", value: strconv.FormatInt(*c.Idle, 10)})
	}
	// An idle group has no weight to set.
	if c.Shares != nil && *c.Shares != 0 && (c.Idle == nil || *c.Idle == 0) {
		list = append(list, setting{file: "cpu.weight", value: strconv.FormatUint(weight(*c.Shares), 10)})
	}
	// A burst must not exceed the quota, so it shrinks before that and grows behind it.
	if c.Burst != nil {
		list = append(list, setting{file: "cpu.max.burst", value: strconv.FormatUint(*c.Burst, 10), early: true})
	}
	switch {
	case c.Quota != nil && c.Period != nil && *c.Period != 0:
		value := limit(*c.Quota, *c.Quota <= 0) + " " + strconv.FormatUint(*c.Period, 10)
		list = append(list, setting{file: "cpu.max", value: value})
	case c.Quota != nil && *c.Quota != 0:
		list = append(list, setting{file: "cpu.max", value: limit(*c.Quota, *c.Quota < 0)})
	case c.Period != nil && *c.Period != 0:
		list = append(list, setting{file: "cpu.max", value: "max " + strconv.FormatUint(*c.Period, 10)})
	}
	if c.Burst != nil {
		list = append(list, setting{file: "cpu.max.burst", value: strconv.FormatUint(*c.Burst, 10)})
	}
	if c.Cpus != "" {
		list = append(list, setting{file: "cpuset.cpus", value: c.Cpus})
	}
	if c.Mems != "" {
		list = append(list, setting{file: "cpuset.mems", value: c.Mems})
	}
	return list
}

// weight maps version 1's shares, 2 to 262144 around 1024, to version 2's weight, 1 to 10000 around 100: by the
// curve through these three points that runtimes agreed on.
func weight(shares uint64) uint64 {
	if shares <= 2 {
		return 1
	}
	if shares >= 262144 {
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

func memorySettings(m *specs.LinuxMemory) ([]setting, error) {
	if m == nil {
		return nil, nil
	}
	var list []setting
	swap, err := swapLimit(m)
	if err != nil {
		return nil, err
	}
	if swap != "" {
		// A kernel without accounting of swap limits none and has none to give.
		list = append(list, setting{file: "memory.swap.max", value: swap, optional: swap == "max" || swap == "0"})
	}
	if m.Limit != nil && *m.Limit != 0 {
		list = append(list, setting{file: "memory.max", value: limit(*m.Limit, *m.Limit < 0)})
	}
	if m.Reservation != nil && *m.Reservation != 0 {
		list = append(list, setting{file: "memory.low", value: limit(*m.Reservation, *m.Reservation < 0)})
	}
	return list, nil
}

// swapLimit is version 2's limit of swap alone, where OCI's is that of memory and swap together, as with version 1;
// empty when none is asked for.
func swapLimit(m *specs.LinuxMemory) (string, error) {
	var memory, swap int64
	if m.Limit != nil {
		memory = *m.Limit
	}
	if m.Swap != nil {
		swap = *m.Swap
	}
	switch {
	case swap < 0, swap == 0 && memory < 0: // without a limit of memory there is none of swap
		return "max", nil
	case swap == 0:
		return "", nil
	case memory < 0:
		return strconv.FormatInt(swap, 10), nil
	case memory == 0:
		return "", fmt.Errorf("memory.swap %d is the limit of memory and swap: it needs memory.limit", swap)
	case swap < memory:
		return "", fmt.Errorf("memory.swap %d is the limit of memory and swap: it is below memory.limit %d", swap, memory)
	}
	return strconv.FormatInt(swap-memory, 10), nil
}

func readUint(name string) (uint64, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	word := strings.TrimSpace(string(text))
	if word == "max" {
		return math.MaxUint64, nil
	}
	return strconv.ParseUint(word, 10, 64)
}
