package kvm

import (
	"fmt"
	"strings"
)

// Capability is an extension of the KVM API that a host may have (KVM_CAP_*).
type Capability uint32

// The capabilities that husk asks about.
const (
	CapIRQChip            Capability = 0
	CapUserMemory         Capability = 3
	CapSetTSSAddr         Capability = 4
	CapExtCPUID           Capability = 7
	CapNrVCPUs            Capability = 9
	CapNrMemslots         Capability = 10
	CapMPState            Capability = 14
	CapSyncMMU            Capability = 16
	CapIRQFD              Capability = 32
	CapPIT2               Capability = 33
	CapIOEventFD          Capability = 36
	CapSetIdentityMapAddr Capability = 37
	CapAdjustClock        Capability = 39
	CapGetTSCKHz          Capability = 61
	CapMaxVCPUs           Capability = 66
	CapOneReg             Capability = 70
	CapTSCDeadlineTimer   Capability = 72
	CapKVMClockCtrl       Capability = 76
	CapEnableCapVM        Capability = 98
	CapMaxVCPUID          Capability = 128
	CapImmediateExit      Capability = 136
	CapHaltPoll           Capability = 182
	CapPMUCapability      Capability = 212
)

var capabilityNames = map[Capability]string{
	CapIRQChip:            "KVM_CAP_IRQCHIP",
	CapUserMemory:         "KVM_CAP_USER_MEMORY",
	CapSetTSSAddr:         "KVM_CAP_SET_TSS_ADDR",
	CapExtCPUID:           "KVM_CAP_EXT_CPUID",
	CapNrVCPUs:            "KVM_CAP_NR_VCPUS",
	CapNrMemslots:         "KVM_CAP_NR_MEMSLOTS",
	CapMPState:            "KVM_CAP_MP_STATE",
	CapSyncMMU:            "KVM_CAP_SYNC_MMU",
	CapIRQFD:              "KVM_CAP_IRQFD",
	CapPIT2:               "KVM_CAP_PIT2",
	CapIOEventFD:          "KVM_CAP_IOEVENTFD",
	CapSetIdentityMapAddr: "KVM_CAP_SET_IDENTITY_MAP_ADDR",
	CapAdjustClock:        "KVM_CAP_ADJUST_CLOCK",
	CapGetTSCKHz:          "KVM_CAP_GET_TSC_KHZ",
	CapMaxVCPUs:           "KVM_CAP_MAX_VCPUS",
	CapOneReg:             "KVM_CAP_ONE_REG",
	CapTSCDeadlineTimer:   "KVM_CAP_TSC_DEADLINE_TIMER",
	CapKVMClockCtrl:       "KVM_CAP_KVMCLOCK_CTRL",
	CapEnableCapVM:        "KVM_CAP_ENABLE_CAP_VM",
	CapMaxVCPUID:          "KVM_CAP_MAX_VCPU_ID",
	CapImmediateExit:      "KVM_CAP_IMMEDIATE_EXIT",
	CapHaltPoll:           "KVM_CAP_HALT_POLL",
	CapPMUCapability:      "KVM_CAP_PMU_CAPABILITY",
}

// String is the name that the kernel's documentation uses.
func (c Capability) String() string {
	if name, ok := capabilityNames[c]; ok {
		return name
	}
	return fmt.Sprintf("KVM capability %d", uint32(c))
}

func list(caps []Capability) string {
	names := make([]string, len(caps))
	for i, c := range caps {
		names[i] = c.String()
	}
	return strings.Join(names, ", ")
}
