package stage

import (
	"fmt"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxCPU is how many processors, or nodes of memory, a list can name.
const maxCPU = 1024

// parseList reads a list such as "0-3,7".
func parseList(text string) (*unix.CPUSet, error) {
	var set unix.CPUSet
	for part := range strings.SplitSeq(text, ",") {
		first, last, ranged := strings.Cut(strings.TrimSpace(part), "-")
		if !ranged {
			last = first
		}
		a, err1 := strconv.ParseUint(first, 10, 16)
		b, err2 := strconv.ParseUint(last, 10, 16)
		if err1 != nil || err2 != nil || a > b || b >= maxCPU {
			return nil, fmt.Errorf("%q is no list of numbers and ranges below %d", text, maxCPU)
		}
		for ; a <= b; a++ {
			set.Set(int(a))
		}
	}
	return &set, nil
}

// setAffinity binds the calling thread to processors; an empty list changes nothing.
func setAffinity(field, list string) error {
	if list == "" {
		return nil
	}
	set, err := parseList(list)
	if err == nil {
		err = unix.SchedSetaffinity(0, set)
	}
	if err != nil {
		return fmt.Errorf("set execCPUAffinity.%s %q: %w", field, list, err)
	}
	return nil
}

var memoryModes = map[specs.MemoryPolicyModeType]int{
	specs.MpolDefault: unix.MPOL_DEFAULT, specs.MpolPreferred: unix.MPOL_PREFERRED, specs.MpolBind: unix.MPOL_BIND,
	specs.MpolInterleave: unix.MPOL_INTERLEAVE, specs.MpolLocal: unix.MPOL_LOCAL,
	specs.MpolPreferredMany: unix.MPOL_PREFERRED_MANY, specs.MpolWeightedInterleave: unix.MPOL_WEIGHTED_INTERLEAVE,
}

var memoryFlags = map[specs.MemoryPolicyFlagType]int{
	specs.MpolFNumaBalancing: unix.MPOL_F_NUMA_BALANCING, specs.MpolFRelativeNodes: unix.MPOL_F_RELATIVE_NODES,
	specs.MpolFStaticNodes: unix.MPOL_F_STATIC_NODES,
}

// setMemoryPolicy is set_mempolicy(2); a guest's kernel without NUMA refuses it.
func setMemoryPolicy(m *specs.LinuxMemoryPolicy) error {
	if m == nil {
		return nil
	}
	mode, ok := memoryModes[m.Mode]
	if !ok {
		return fmt.Errorf("unknown memoryPolicy mode %q", m.Mode)
	}
	for _, f := range m.Flags {
		bit, ok := memoryFlags[f]
		if !ok {
			return fmt.Errorf("unknown memoryPolicy flag %q", f)
		}
		mode |= bit
	}
	var nodes *unix.CPUSet
	if m.Nodes != "" {
		var err error
		if nodes, err = parseList(m.Nodes); err != nil {
			return fmt.Errorf("memoryPolicy nodes: %w", err)
		}
	}
	if err := unix.SetMemPolicy(mode, nodes); err != nil {
		return fmt.Errorf("set memoryPolicy %s of nodes %q: %w", m.Mode, m.Nodes, err)
	}
	return nil
}
