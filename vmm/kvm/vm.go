package kvm

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// VM is one virtual machine. Set-up calls may come from any goroutine, one at a time; IRQ lines may be set at any
// time. Close it after every vCPU is closed.
type VM struct {
	fd      int
	runSize int
}

// Close lets go of the VM. The kernel frees it once its vCPUs and eventfds are gone as well.
func (v *VM) Close() error { return unix.Close(v.fd) }

// MemoryFlags are the flags of a memory slot.
type MemoryFlags uint32

// The flags of KVM API 4.35 that a slot may have.
const (
	MemoryLogDirty MemoryFlags = 1 << 0
	MemoryReadOnly MemoryFlags = 1 << 1
)

type userspaceMemoryRegion struct {
	slot, flags   uint32
	guestPhysAddr uint64
	memorySize    uint64
	userspaceAddr uint64
}

// SetMemory puts mem, a page-aligned mapping of whole pages, at the guest physical address base. The mapping must
// stay until the VM is gone. An empty mem removes the slot (KVM API 4.35).
func (v *VM) SetMemory(slot uint32, base uint64, mem []byte, flags MemoryFlags) error {
	r := userspaceMemoryRegion{
		slot: slot, flags: uint32(flags),
		guestPhysAddr: base, memorySize: uint64(len(mem)), userspaceAddr: hostAddress(mem),
	}
	if _, err := ioctlPtr(v.fd, setUserMemoryRegion, &r); err != nil {
		return fmt.Errorf("set memory slot %d, %d bytes at %#x: %w", slot, len(mem), base, err)
	}
	return nil
}

// CreateIRQChip gives the VM its interrupt controllers; before the first vCPU (KVM API 4.24).
func (v *VM) CreateIRQChip() error {
	if _, err := ioctl(v.fd, createIRQChip, 0); err != nil {
		return fmt.Errorf("create interrupt controllers: %w", err)
	}
	return nil
}

type irqLevel struct{ irq, level uint32 }

// SetIRQLine raises or lowers an interrupt line (KVM API 4.25).
func (v *VM) SetIRQLine(irq uint32, high bool) error {
	l := irqLevel{irq: irq}
	if high {
		l.level = 1
	}
	if _, err := ioctlPtr(v.fd, irqLine, &l); err != nil {
		return fmt.Errorf("set interrupt line %d: %w", irq, err)
	}
	return nil
}

type irqFDArgs struct {
	fd, gsi, flags uint32
	_              [20]byte // a second eventfd, for level-triggered lines
}

const irqFDDeassign = 1 << 0

// BindIRQ makes every signal of an eventfd an edge of the interrupt line gsi (KVM API 4.75).
func (v *VM) BindIRQ(eventfd int, gsi uint32) error { return v.irqFD(eventfd, gsi, 0, "bind") }

// UnbindIRQ undoes BindIRQ with the same arguments.
func (v *VM) UnbindIRQ(eventfd int, gsi uint32) error {
	return v.irqFD(eventfd, gsi, irqFDDeassign, "unbind")
}

func (v *VM) irqFD(eventfd int, gsi, flags uint32, verb string) error {
	a := irqFDArgs{fd: uint32(eventfd), gsi: gsi, flags: flags}
	if _, err := ioctlPtr(v.fd, irqFD, &a); err != nil {
		return fmt.Errorf("%s eventfd to interrupt line %d: %w", verb, gsi, err)
	}
	return nil
}

// Doorbell is a guest write that signals an eventfd instead of leaving KVM_RUN.
type Doorbell struct {
	Addr  uint64
	Size  uint32  // of the write, in bytes: 1, 2, 4, 8; 0 matches any size
	Port  bool    // Addr is a port, not a memory address
	Match *uint64 // when set, only writes of this value
}

type ioEventFDArgs struct {
	dataMatch, addr uint64
	len             uint32
	fd              int32
	flags           uint32
	_               [36]byte
}

const (
	ioEventFDMatch    = 1 << 0
	ioEventFDPort     = 1 << 1
	ioEventFDDeassign = 1 << 2
)

// BindDoorbell makes the guest's write at d a signal of eventfd (KVM API 4.59).
func (v *VM) BindDoorbell(eventfd int, d Doorbell) error { return v.ioEventFD(eventfd, d, 0, "bind") }

// UnbindDoorbell undoes BindDoorbell with the same arguments.
func (v *VM) UnbindDoorbell(eventfd int, d Doorbell) error {
	return v.ioEventFD(eventfd, d, ioEventFDDeassign, "unbind")
}

func (v *VM) ioEventFD(eventfd int, d Doorbell, flags uint32, verb string) error {
	a := ioEventFDArgs{addr: d.Addr, len: d.Size, fd: int32(eventfd), flags: flags}
	if d.Port {
		a.flags |= ioEventFDPort
	}
	if d.Match != nil {
		a.flags |= ioEventFDMatch
		a.dataMatch = *d.Match
	}
	if _, err := ioctlPtr(v.fd, ioEventFD, &a); err != nil {
		return fmt.Errorf("%s eventfd to writes at %#x: %w", verb, d.Addr, err)
	}
	return nil
}

type enableCapArgs struct {
	cap, _ uint32
	args   [4]uint64
	_      [64]byte
}

// Enable turns a capability of the VM on (KVM API 4.37).
func (v *VM) Enable(c Capability, args ...uint64) error {
	a := enableCapArgs{cap: uint32(c)}
	copy(a.args[:], args)
	if _, err := ioctlPtr(v.fd, enableCap, &a); err != nil {
		return fmt.Errorf("enable %s: %w", c, err)
	}
	return nil
}

// CreateVCPU makes the vCPU with the given number (KVM API 4.7).
func (v *VM) CreateVCPU(id int) (*VCPU, error) {
	fd, err := ioctl(v.fd, createVCPU, uintptr(id))
	if err != nil {
		return nil, fmt.Errorf("create vCPU %d: %w", id, err)
	}
	area, err := unix.Mmap(int(fd), 0, v.runSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		_ = unix.Close(int(fd))
		return nil, fmt.Errorf("map run area of vCPU %d: %w", id, err)
	}
	return &VCPU{fd: int(fd), id: id, area: area}, nil
}
