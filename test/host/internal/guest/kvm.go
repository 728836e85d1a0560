package guest

import (
	"errors"
	"io/fs"
	"os"

	"github.com/huskvm/husk/vmm/kvm"
)

// held is a virtual machine that never runs, and lives as long as the host does.
var held struct {
	system *kvm.System
	vm     *kvm.VM
	cpu    *kvm.VCPU
}

// holdVM keeps the kernel from changing its own code with every VM. The first VM, and the first vCPU whose APIC is
// off, switch branches on all over the kernel, the scheduler's included, and the last ones switch them off again.
// QEMU's software emulation now and then goes on executing the breakpoint that is there in between, on one
// processor and for ever: the host hangs, some dozens of VMs later. While this one lives, no VM is first or last.
func holdVM() error {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a host whose emulation has no KVM can still be used for other things
	}
	if err != nil {
		return err
	}
	if held.system, err = kvm.New(f); err != nil {
		return err
	}
	if held.vm, err = held.system.CreateVM(0); err != nil {
		return err
	}
	if err := held.vm.CreateIRQChip(); err != nil {
		return err
	}
	held.cpu, err = held.vm.CreateVCPU(0)
	return err
}
