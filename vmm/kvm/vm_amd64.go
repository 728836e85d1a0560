package kvm

import "fmt"

const (
	setTSSAddr         = 0xae47
	setIdentityMapAddr = 0x4008ae48
	createPIT2         = 0x4040ae77
	setClock           = 0x4030ae7b
	getClock           = 0x8030ae7c
)

// SetTSSAddr gives KVM three pages of guest physical address space below 4 GiB, free of memory and devices, that
// Intel processors need to run real-mode code (KVM API 4.36).
func (v *VM) SetTSSAddr(addr uint64) error {
	if _, err := ioctl(v.fd, setTSSAddr, uintptr(addr)); err != nil {
		return fmt.Errorf("set TSS address %#x: %w", addr, err)
	}
	return nil
}

// SetIdentityMapAddr gives KVM one more page, for the same reason; before the first vCPU (KVM API 4.40).
func (v *VM) SetIdentityMapAddr(addr uint64) error {
	if _, err := ioctlPtr(v.fd, setIdentityMapAddr, &addr); err != nil {
		return fmt.Errorf("set identity map address %#x: %w", addr, err)
	}
	return nil
}

type pitConfig struct {
	flags uint32
	_     [15]uint32
}

const pitSpeakerDummy = 1 << 0

// CreatePIT2 adds the 8254 timer with a speaker port that does nothing; after CreateIRQChip (KVM API 4.71).
func (v *VM) CreatePIT2() error {
	c := pitConfig{flags: pitSpeakerDummy}
	if _, err := ioctlPtr(v.fd, createPIT2, &c); err != nil {
		return fmt.Errorf("create PIT: %w", err)
	}
	return nil
}

// ClockData is kvmclock's time in nanoseconds, with what KVM knew when it was read.
type ClockData struct {
	Clock    uint64
	Flags    ClockFlags
	_        uint32
	Realtime uint64 // wall clock of the host at the same moment, when ClockRealtime is set
	HostTSC  uint64 // when ClockHostTSC is set
	_        [4]uint32
}

// ClockFlags say what in a ClockData is valid.
type ClockFlags uint32

// The flags of KVM API 4.29.
const (
	ClockTSCStable ClockFlags = 1 << 1
	ClockRealtime  ClockFlags = 1 << 2
	ClockHostTSC   ClockFlags = 1 << 3
)

// Clock reads kvmclock (KVM API 4.29).
func (v *VM) Clock() (ClockData, error) {
	var d ClockData
	if _, err := ioctlPtr(v.fd, getClock, &d); err != nil {
		return d, fmt.Errorf("read the VM's clock: %w", err)
	}
	return d, nil
}

// SetClock sets kvmclock. With ClockRealtime in Flags, KVM adds the time passed since Realtime (KVM API 4.30).
func (v *VM) SetClock(d ClockData) error {
	if _, err := ioctlPtr(v.fd, setClock, &d); err != nil {
		return fmt.Errorf("set the VM's clock: %w", err)
	}
	return nil
}
