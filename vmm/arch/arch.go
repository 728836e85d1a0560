// Package arch is what makes a KVM virtual machine a computer of one architecture: where memory and devices lie,
// what the processors are and in which state they start, the tables a kernel finds them by, and the words on its
// command line that follow from it.
//
// The boot package uses the layout to place a kernel; the machine package calls the rest, in this order:
//
//	Required            the capabilities KVM must have
//	MemoryRanges        how much memory goes where
//	NewPlatform         the VM's interrupt controllers and the rest that comes before vCPUs
//	Platform.AddCPU     each vCPU, ready to run
//	WriteTables         into guest memory
//	boot.Load           the kernel, giving an Entry
//	Enter               the first vCPU's registers, from the Entry
//
// It holds nothing that outlives these calls.
package arch

import (
	"errors"
	"runtime"
)

// ErrUnsupported is what everything answers on an architecture without a built-in machine.
var ErrUnsupported = errors.New("husk has no built-in VMM for " + runtime.GOARCH + ": QEMU runs guests there")

// Range is a piece of the guest's physical address space.
type Range struct{ Base, Size uint64 }

// Slot is where a device on the MMIO bus is found.
type Slot struct {
	Base uint64 // of SlotSize bytes
	IRQ  uint32 // interrupt line, edge-triggered; also the number (gsi) for KVM
}

// Protocol is how a kernel wants to be entered.
type Protocol uint8

// The protocols of x86.
const (
	// LinuxBoot64 is the 64-bit boot protocol of Linux: long mode, a zero page in RSI.
	LinuxBoot64 Protocol = iota + 1
	// PVH is the protocol of Xen's paravirtualized hardware guests: 32-bit protected mode without paging, a
	// start-of-day structure in EBX.
	PVH
)

func (p Protocol) String() string {
	switch p {
	case LinuxBoot64:
		return "the 64-bit Linux boot protocol"
	case PVH:
		return "PVH"
	}
	return "no protocol"
}

// Entry is where and how the first vCPU begins.
type Entry struct {
	Protocol Protocol
	PC       uint64
	Params   uint64 // guest physical address of the zero page or the start info
}
