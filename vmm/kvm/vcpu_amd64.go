package kvm

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	getRegs      = 0x8090ae81
	setRegs      = 0x4090ae82
	getSregs     = 0x8138ae83
	setSregs     = 0x4138ae84
	getFPU       = 0x81a0ae8c
	setFPU       = 0x41a0ae8d
	getLAPIC     = 0x8400ae8e
	setLAPIC     = 0x4400ae8f
	kvmclockCtrl = 0xaead
	getTSCKHz    = 0xaea3
	injectNMI    = 0xae9a
)

// Regs are the general purpose registers (struct kvm_regs).
type Regs struct {
	RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP uint64
	R8, R9, R10, R11, R12, R13, R14, R15   uint64
	RIP, RFLAGS                            uint64
}

// Segment is a segment register with its hidden part (struct kvm_segment).
type Segment struct {
	Base                             uint64
	Limit                            uint32
	Selector                         uint16
	Type, Present, DPL, DB, S, L     uint8
	Granularity, Available, Unusable uint8
	_                                uint8
}

// Table is GDTR or IDTR (struct kvm_dtable).
type Table struct {
	Base  uint64
	Limit uint16
	_     [3]uint16
}

// Sregs are the segment and control registers (struct kvm_sregs).
type Sregs struct {
	CS, DS, ES, FS, GS, SS   Segment
	TR, LDT                  Segment
	GDT, IDT                 Table
	CR0, CR2, CR3, CR4, CR8  uint64
	EFER                     uint64
	APICBase                 uint64
	PendingInterruptsByIndex [4]uint64
}

// FPU is the x87 and SSE state (struct kvm_fpu).
type FPU struct {
	FPR        [8][16]byte
	FCW, FSW   uint16
	FTWX       uint8
	_          uint8
	LastOpcode uint16
	LastIP     uint64
	LastDP     uint64
	XMM        [16][16]byte
	MXCSR      uint32
	_          uint32
}

// LAPIC is the local APIC's register page (struct kvm_lapic_state).
type LAPIC struct{ Bytes [1024]byte }

// Regs reads the general purpose registers (KVM API 4.11).
func (c *VCPU) Regs() (Regs, error) {
	var r Regs
	return r, get(c, getRegs, &r, "registers")
}

// SetRegs sets them (KVM API 4.12).
func (c *VCPU) SetRegs(r *Regs) error { return set(c, setRegs, r, "registers") }

// Sregs reads the segment and control registers (KVM API 4.13).
func (c *VCPU) Sregs() (Sregs, error) {
	var r Sregs
	return r, get(c, getSregs, &r, "control registers")
}

// SetSregs sets them (KVM API 4.14).
func (c *VCPU) SetSregs(r *Sregs) error { return set(c, setSregs, r, "control registers") }

// FPU reads the floating point state (KVM API 4.22).
func (c *VCPU) FPU() (FPU, error) {
	var f FPU
	return f, get(c, getFPU, &f, "floating point state")
}

// SetFPU sets it (KVM API 4.23).
func (c *VCPU) SetFPU(f *FPU) error { return set(c, setFPU, f, "floating point state") }

// LAPIC reads the local APIC (KVM API 4.57).
func (c *VCPU) LAPIC() (LAPIC, error) {
	var l LAPIC
	return l, get(c, getLAPIC, &l, "local APIC")
}

// SetLAPIC sets it (KVM API 4.58).
func (c *VCPU) SetLAPIC(l *LAPIC) error { return set(c, setLAPIC, l, "local APIC") }

// TSCKHz is the frequency of the guest's time stamp counter (KVM API 4.56).
func (c *VCPU) TSCKHz() (int, error) {
	n, err := ioctl(c.fd, getTSCKHz, 0)
	if err != nil {
		return 0, fmt.Errorf("get TSC frequency of vCPU %d: %w", c.id, err)
	}
	return int(n), nil
}

// NMI sends the vCPU a non-maskable interrupt (KVM API 4.64).
func (c *VCPU) NMI() error {
	if _, err := ioctl(c.fd, injectNMI, 0); err != nil {
		return fmt.Errorf("send NMI to vCPU %d: %w", c.id, err)
	}
	return nil
}

// Resumed tells the guest's kernel that it was stopped on purpose, so that its watchdogs keep quiet. A guest that
// doesn't use kvmclock can't be told, and needs not be (KVM API 4.70).
func (c *VCPU) Resumed() error {
	if _, err := ioctl(c.fd, kvmclockCtrl, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("tell vCPU %d that it was stopped: %w", c.id, err)
	}
	return nil
}

// Describe is the state that explains a crash, on a few lines.
func (c *VCPU) Describe() string {
	r, err := c.Regs()
	if err != nil {
		return err.Error()
	}
	s, err := c.Sregs()
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("rip %#x rsp %#x rflags %#x rax %#x rbx %#x rcx %#x rdx %#x rsi %#x rdi %#x rbp %#x\n"+
		"cs %#x (base %#x) cr0 %#x cr2 %#x cr3 %#x cr4 %#x efer %#x",
		r.RIP, r.RSP, r.RFLAGS, r.RAX, r.RBX, r.RCX, r.RDX, r.RSI, r.RDI, r.RBP,
		s.CS.Selector, s.CS.Base, s.CR0, s.CR2, s.CR3, s.CR4, s.EFER)
}
