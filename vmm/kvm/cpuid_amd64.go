package kvm

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	getSupportedCPUID = 0xc008ae05
	setCPUID2         = 0x4008ae90

	maxCPUID = 256 // KVM_MAX_CPUID_ENTRIES
)

// CPUIDSignificantIndex marks an entry whose Index tells it from others of the same function.
const CPUIDSignificantIndex = 1 << 0

// CPUIDEntry is the answer to one CPUID leaf (struct kvm_cpuid_entry2).
type CPUIDEntry struct {
	Function, Index, Flags uint32
	EAX, EBX, ECX, EDX     uint32
	_                      [3]uint32
}

type cpuid2 struct {
	n, _    uint32
	entries [maxCPUID]CPUIDEntry
}

// SupportedCPUID is what this host's processor and KVM can offer a guest (KVM API 4.46).
func (s *System) SupportedCPUID() ([]CPUIDEntry, error) {
	c := &cpuid2{n: maxCPUID}
	if _, err := ioctlPtr(s.fd, getSupportedCPUID, c); err != nil {
		if errors.Is(err, unix.E2BIG) {
			return nil, fmt.Errorf("get supported CPUID: more than %d entries", maxCPUID)
		}
		return nil, fmt.Errorf("get supported CPUID: %w", err)
	}
	return append([]CPUIDEntry(nil), c.entries[:min(c.n, maxCPUID)]...), nil
}

// SetCPUID decides what the guest's CPUID instruction answers; before the first Run (KVM API 4.20).
func (c *VCPU) SetCPUID(entries []CPUIDEntry) error {
	if len(entries) > maxCPUID {
		return fmt.Errorf("set CPUID of vCPU %d: %d entries, at most %d", c.id, len(entries), maxCPUID)
	}
	arg := &cpuid2{n: uint32(len(entries))}
	copy(arg.entries[:], entries)
	return set(c, setCPUID2, arg, "CPUID")
}
