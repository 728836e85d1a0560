package kvm

import "fmt"

// ExitReason says why KVM_RUN came back.
type ExitReason uint32

// The exit reasons of <linux/kvm.h> that concern husk's architectures.
const (
	ExitUnknown       ExitReason = 0
	ExitException     ExitReason = 1
	ExitIO            ExitReason = 2
	ExitHypercall     ExitReason = 3
	ExitDebug         ExitReason = 4
	ExitHLT           ExitReason = 5
	ExitMMIO          ExitReason = 6
	ExitIRQWindowOpen ExitReason = 7
	ExitShutdown      ExitReason = 8
	ExitFailEntry     ExitReason = 9
	ExitIntr          ExitReason = 10
	ExitSetTPR        ExitReason = 11
	ExitTPRAccess     ExitReason = 12
	ExitNMI           ExitReason = 16
	ExitInternalError ExitReason = 17
	ExitWatchdog      ExitReason = 21
	ExitSystemEvent   ExitReason = 24
	ExitIOAPICEOI     ExitReason = 26
	ExitHyperV        ExitReason = 27
	ExitARMNISV       ExitReason = 28
	ExitRDMSR         ExitReason = 29
	ExitWRMSR         ExitReason = 30
	ExitDirtyRingFull ExitReason = 31
	ExitAPResetHold   ExitReason = 32
	ExitBusLock       ExitReason = 33
	ExitXen           ExitReason = 34
	ExitNotify        ExitReason = 37
	ExitMemoryFault   ExitReason = 39
)

var exitNames = map[ExitReason]string{
	ExitUnknown: "unknown", ExitException: "exception", ExitIO: "io", ExitHypercall: "hypercall",
	ExitDebug: "debug", ExitHLT: "hlt", ExitMMIO: "mmio", ExitIRQWindowOpen: "irq-window",
	ExitShutdown: "shutdown", ExitFailEntry: "fail-entry", ExitIntr: "intr", ExitSetTPR: "set-tpr",
	ExitTPRAccess: "tpr-access", ExitNMI: "nmi", ExitInternalError: "internal-error",
	ExitWatchdog: "watchdog", ExitSystemEvent: "system-event", ExitIOAPICEOI: "ioapic-eoi",
	ExitHyperV: "hyperv", ExitARMNISV: "arm-nisv", ExitRDMSR: "rdmsr", ExitWRMSR: "wrmsr",
	ExitDirtyRingFull: "dirty-ring-full", ExitAPResetHold: "ap-reset-hold", ExitBusLock: "bus-lock",
	ExitXen: "xen", ExitNotify: "notify", ExitMemoryFault: "memory-fault",
}

// String is the reason's short name, as counters and messages show it.
func (r ExitReason) String() string {
	if name, ok := exitNames[r]; ok {
		return name
	}
	return fmt.Sprintf("exit-%d", uint32(r))
}

// MMIO is a guest's access of an address without memory behind it. Data lies in the run area: for a read, what
// is put there is what the guest gets. It is valid until the next Run.
type MMIO struct {
	Addr  uint64
	Data  []byte
	Write bool
}

// PIO is a guest's access of I/O ports: one or, for string instructions, several accesses of Size bytes each at
// the same port, one after the other in Data. As with MMIO, Data lies in the run area.
type PIO struct {
	Port uint16
	Size int
	Data []byte
	Out  bool
}

// SystemEvent is what a guest asked of the platform, or the platform of it.
type SystemEvent struct {
	Type uint32
	Data []uint64
}

// Types of a SystemEvent.
const (
	EventShutdown uint32 = 1
	EventReset    uint32 = 2
	EventCrash    uint32 = 3
)

// InternalError is KVM's own failure to go on, such as an instruction it can't emulate.
type InternalError struct {
	Suberror uint32
	Data     []uint64
}

var suberrorNames = map[uint32]string{
	1: "instruction emulation failed",
	2: "simultaneous exceptions",
	3: "event delivery failed",
	4: "unexpected exit reason",
}

// Error is the failure in words, with KVM's own data.
func (e InternalError) Error() string {
	name, ok := suberrorNames[e.Suberror]
	if !ok {
		name = "internal error"
	}
	return fmt.Sprintf("%s (suberror %d, data %#x)", name, e.Suberror, e.Data)
}

// FailEntry is the processor's refusal to enter the guest with the state it has.
type FailEntry struct {
	HardwareReason uint64
	CPU            uint32
}

func (e FailEntry) Error() string {
	return fmt.Sprintf("the processor refused the guest's state (hardware reason %#x, host CPU %d)", e.HardwareReason, e.CPU)
}
