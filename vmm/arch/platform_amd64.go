package arch

import (
	"encoding/binary"
	"fmt"

	"github.com/huskvm/husk/vmm/kvm"
)

// Supported says that there is a built-in machine.
const Supported = true

// Required is what the host's KVM must be able to do.
var Required = []kvm.Capability{
	kvm.CapIRQChip, kvm.CapUserMemory, kvm.CapSetTSSAddr, kvm.CapSetIdentityMapAddr, kvm.CapExtCPUID,
	kvm.CapMPState, kvm.CapSyncMMU, kvm.CapIRQFD, kvm.CapIOEventFD, kvm.CapTSCDeadlineTimer,
	kvm.CapImmediateExit,
}

// Platform is a VM with everything that vCPUs are plugged into.
type Platform struct {
	vm    *kvm.VM
	cpuid []kvm.CPUIDEntry // of the host
	cpus  int
}

// NewPlatform prepares vm, which must be fresh, for the given number of vCPUs: interrupt controllers, the pages
// KVM needs, no performance counters. There is no PIT: with a TSC whose frequency kvmclock tells and a deadline
// timer in every APIC, Linux neither calibrates by one nor ticks by it.
func NewPlatform(sys *kvm.System, vm *kvm.VM, cpus int) (*Platform, error) {
	if err := checkCPUs(cpus); err != nil {
		return nil, err
	}
	limit, err := sys.MaxVCPUs()
	if err != nil {
		return nil, err
	}
	if cpus > limit {
		return nil, fmt.Errorf("%d vCPUs: this host's KVM allows %d", cpus, limit)
	}
	if err := vm.SetIdentityMapAddr(identityMapAddr); err != nil {
		return nil, err
	}
	if err := vm.SetTSSAddr(tssAddr); err != nil {
		return nil, err
	}
	if err := vm.CreateIRQChip(); err != nil {
		return nil, err
	}
	const pmuDisable = 1 << 0
	if n, err := sys.Check(kvm.CapPMUCapability); err == nil && n&pmuDisable != 0 {
		if err := vm.Enable(kvm.CapPMUCapability, pmuDisable); err != nil {
			return nil, err
		}
	}
	cpuid, err := sys.SupportedCPUID()
	if err != nil {
		return nil, err
	}
	return &Platform{vm: vm, cpuid: cpuid, cpus: cpus}, nil
}

// AddCPU creates vCPU id, of 0 to cpus-1, and prepares all of its state but the first one's registers (Enter).
func (p *Platform) AddCPU(id int) (*kvm.VCPU, error) {
	c, err := p.vm.CreateVCPU(id)
	if err != nil {
		return nil, err
	}
	if err := p.prepare(c, id); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// Model specific registers, and the values firmware would leave in them.
const (
	msrMiscEnable  = 0x1a0
	msrMTRRDefault = 0x2ff

	miscFastStrings = 1 << 0
	mtrrEnable      = 1 << 11
	mtrrWriteBack   = 6
)

func (p *Platform) prepare(c *kvm.VCPU, id int) error {
	if err := c.SetCPUID(guestCPUID(p.cpuid, topology{id: id, n: p.cpus})); err != nil {
		return err
	}
	// Every other register is as KVM resets it, which is what the kernel expects of firmware. Without an enabled
	// default type all memory would be uncached, as far as the kernel knows.
	if err := c.SetMSRs([]kvm.MSR{
		{Index: msrMiscEnable, Value: miscFastStrings},
		{Index: msrMTRRDefault, Value: mtrrEnable | mtrrWriteBack},
	}); err != nil {
		return err
	}
	if id != 0 {
		return nil // INIT resets the rest before the processor runs
	}
	return setLocalInterrupts(c)
}

// setLocalInterrupts routes LINT0 and LINT1 as the MP table says, and as firmware leaves them: the PICs, and NMI.
func setLocalInterrupts(c *kvm.VCPU) error {
	const (
		lint0, lint1               = 0x350, 0x360
		modeMask                   = 7 << 8
		modeExtINT, modeNMI        = 7 << 8, 4 << 8
		maskedBit           uint32 = 1 << 16
	)
	l, err := c.LAPIC()
	if err != nil {
		return err
	}
	set := func(reg int, mode uint32) {
		b := l.Bytes[reg:]
		v := binary.LittleEndian.Uint32(b)
		binary.LittleEndian.PutUint32(b, v&^(modeMask|maskedBit)|mode)
	}
	set(lint0, modeExtINT)
	set(lint1, modeNMI)
	return c.SetLAPIC(&l)
}
