package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// setting is one file of the group and what to write to it.
type setting struct {
	file, value string
	// optional: where the kernel has no such file, the value is what holds anyway.
	optional bool
}

// Apply sets the limits that r names and leaves the others as they are. Block I/O limits name devices of the
// host and are the host's to enforce; what only version 1 knew is ignored, as by every runtime on version 2.
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
		err := write(filepath.Join(g.dir, s.file), s.value)
		if s.optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("set %s to %q: %w", s.file, s.value, err)
		}
	}
	return nil
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
	list := append(cpuSettings(r.CPU), memorySettings(r.Memory)...)
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
	for file, value := range r.Unified {
		if !strings.Contains(file, ".") || strings.Contains(file, "/") {
			return nil, fmt.Errorf("unified resource %q is not a cgroup file", file)
		}
		list = append(list, setting{file: file, value: value})
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
	if c.Shares != nil && *c.Shares != 0 {
		list = append(list, setting{file: "cpu.weight", value: strconv.FormatUint(weight(*c.Shares), 10)})
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

func memorySettings(m *specs.LinuxMemory) []setting {
	if m == nil {
		return nil
	}
	var list []setting
	// OCI's swap is memory and swap together, version 2's is swap alone.
	if m.Swap != nil && *m.Swap != 0 {
		s := setting{file: "memory.swap.max"}
		switch {
		case *m.Swap < 0:
			s.value, s.optional = "max", true
		case m.Limit != nil && *m.Limit > 0:
			s.value = strconv.FormatInt(max(0, *m.Swap-*m.Limit), 10)
			s.optional = s.value == "0"
		default:
			s.value = strconv.FormatInt(*m.Swap, 10)
		}
		list = append(list, s)
	}
	if m.Limit != nil && *m.Limit != 0 {
		list = append(list, setting{file: "memory.max", value: limit(*m.Limit, *m.Limit < 0)})
	}
	if m.Reservation != nil && *m.Reservation != 0 {
		list = append(list, setting{file: "memory.low", value: limit(*m.Reservation, *m.Reservation < 0)})
	}
	return list
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
