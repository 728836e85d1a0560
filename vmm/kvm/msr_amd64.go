package kvm

import "fmt"

const (
	getMSRs = 0xc008ae88
	setMSRs = 0x4008ae89

	maxMSRs = 64 // of one call; KVM takes 256
)

// MSR is a model specific register and its value (struct kvm_msr_entry).
type MSR struct {
	Index uint32
	_     uint32
	Value uint64
}

type msrs struct {
	n, _    uint32
	entries [maxMSRs]MSR
}

// MSRs fills in the values of the registers named by list (KVM API 4.18).
func (c *VCPU) MSRs(list []MSR) error {
	arg, err := c.msrArgs(list)
	if err != nil {
		return err
	}
	n, err := ioctlPtr(c.fd, getMSRs, arg)
	if err != nil {
		return fmt.Errorf("get MSRs of vCPU %d: %w", c.id, err)
	}
	if int(n) != len(list) {
		return fmt.Errorf("get MSRs of vCPU %d: this KVM refuses %#x", c.id, list[n].Index)
	}
	copy(list, arg.entries[:])
	return nil
}

// SetMSRs sets registers (KVM API 4.19).
func (c *VCPU) SetMSRs(list []MSR) error {
	arg, err := c.msrArgs(list)
	if err != nil {
		return err
	}
	n, err := ioctlPtr(c.fd, setMSRs, arg)
	if err != nil {
		return fmt.Errorf("set MSRs of vCPU %d: %w", c.id, err)
	}
	// KVM stops at the first it refuses and says how many it took.
	if int(n) != len(list) {
		return fmt.Errorf("set MSRs of vCPU %d: this KVM refuses %#x = %#x", c.id, list[n].Index, list[n].Value)
	}
	return nil
}

func (c *VCPU) msrArgs(list []MSR) (*msrs, error) {
	if len(list) > maxMSRs {
		return nil, fmt.Errorf("%d MSRs of vCPU %d in one call, at most %d", len(list), c.id, maxMSRs)
	}
	arg := &msrs{n: uint32(len(list))}
	copy(arg.entries[:], list)
	return arg, nil
}
