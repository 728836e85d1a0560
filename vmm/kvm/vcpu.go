package kvm

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// VCPU is one virtual processor. Run, and everything that reads the run area, belongs to the one thread that
// runs it; SetImmediateExit may be called from anywhere. State is got and set while it doesn't run.
type VCPU struct {
	fd   int
	id   int
	area []byte // struct kvm_run, shared with the kernel
}

// Offsets in struct kvm_run (KVM API 5). The union of exit data begins at runData.
const (
	runExitReason = 8
	runData       = 32
	minRunSize    = 0x200

	ioDirection, ioSize, ioPort, ioCount, ioOffset = runData, runData + 1, runData + 2, runData + 4, runData + 8
	mmioAddr, mmioData, mmioLen, mmioIsWrite       = runData, runData + 8, runData + 16, runData + 20
	failReason, failCPU                            = runData, runData + 8
	eventType, eventCount, eventData               = runData, runData + 4, runData + 8
	eventMax                                       = 16
)

// immediateExit is the word of struct kvm_run that has immediate_exit, a byte at offset 1, set and nothing else.
// Its neighbours are request_interrupt_window, which an in-kernel interrupt controller ignores, and padding.
var immediateExit = binary.NativeEndian.Uint32([]byte{0, 1, 0, 0})

// ID is the number given to CreateVCPU.
func (c *VCPU) ID() int { return c.id }

// Close unmaps the run area and closes the vCPU, which must not be running.
func (c *VCPU) Close() error {
	err := unix.Munmap(c.area)
	c.area = nil
	if cerr := unix.Close(c.fd); err == nil {
		err = cerr
	}
	return err
}

// Run enters the guest until it exits or a signal arrives: nil, then, see Reason, or unix.EINTR (KVM API 4.10).
// The error is bare, as this is the hot path.
func (c *VCPU) Run() error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(c.fd), run, 0); errno != 0 {
		return errno
	}
	return nil
}

// SetImmediateExit makes this and every further Run return EINTR before entering the guest, until it is set back.
func (c *VCPU) SetImmediateExit(on bool) {
	var w uint32
	if on {
		w = immediateExit
	}
	storeWord(c.area[:4], w)
}

// Reason is why the last Run came back.
func (c *VCPU) Reason() ExitReason { return ExitReason(c.u32(runExitReason)) }

// MMIO describes an ExitMMIO.
func (c *VCPU) MMIO() MMIO {
	n := min(c.u32(mmioLen), 8)
	return MMIO{
		Addr:  c.u64(mmioAddr),
		Data:  c.area[mmioData : mmioData+n : mmioData+n],
		Write: c.area[mmioIsWrite] != 0,
	}
}

// PIO describes an ExitIO.
func (c *VCPU) PIO() PIO {
	size := int(c.area[ioSize])
	off, n := c.u64(ioOffset), uint64(size)*uint64(c.u32(ioCount))
	p := PIO{
		Port: binary.NativeEndian.Uint16(c.area[ioPort:]),
		Size: size,
		Out:  c.area[ioDirection] != 0,
	}
	// The kernel keeps both within the area; a slip there must not become a panic here.
	if end := uint64(len(c.area)); off <= end && n <= end-off {
		p.Data = c.area[off : off+n : off+n]
	}
	return p
}

// FailEntry describes an ExitFailEntry.
func (c *VCPU) FailEntry() FailEntry {
	return FailEntry{HardwareReason: c.u64(failReason), CPU: c.u32(failCPU)}
}

// InternalError describes an ExitInternalError.
func (c *VCPU) InternalError() InternalError {
	return InternalError{Suberror: c.u32(eventType), Data: c.eventData()}
}

// SystemEvent describes an ExitSystemEvent.
func (c *VCPU) SystemEvent() SystemEvent {
	return SystemEvent{Type: c.u32(eventType), Data: c.eventData()}
}

func (c *VCPU) eventData() []uint64 {
	d := make([]uint64, min(c.u32(eventCount), eventMax))
	for i := range d {
		d[i] = c.u64(eventData + 8*i)
	}
	return d
}

func (c *VCPU) u32(off int) uint32 { return binary.NativeEndian.Uint32(c.area[off:]) }
func (c *VCPU) u64(off int) uint64 { return binary.NativeEndian.Uint64(c.area[off:]) }

// MPState is what a vCPU is doing as far as its siblings are concerned.
type MPState uint32

// States of KVM API 4.38.
const (
	MPRunnable      MPState = 0
	MPUninitialized MPState = 1
	MPInitReceived  MPState = 2
	MPHalted        MPState = 3
	MPSIPIReceived  MPState = 4
	MPStopped       MPState = 5
)

// MPState reads the vCPU's multiprocessing state (KVM API 4.38).
func (c *VCPU) MPState() (MPState, error) {
	var s MPState
	if err := get(c, getMPState, &s, "multiprocessing state"); err != nil {
		return 0, err
	}
	return s, nil
}

// SetMPState sets it (KVM API 4.39).
func (c *VCPU) SetMPState(s MPState) error { return set(c, setMPState, &s, "multiprocessing state") }

func get[T any](c *VCPU, request uintptr, p *T, what string) error {
	if _, err := ioctlPtr(c.fd, request, p); err != nil {
		return fmt.Errorf("get %s of vCPU %d: %w", what, c.id, err)
	}
	return nil
}

func set[T any](c *VCPU, request uintptr, p *T, what string) error {
	if _, err := ioctlPtr(c.fd, request, p); err != nil {
		return fmt.Errorf("set %s of vCPU %d: %w", what, c.id, err)
	}
	return nil
}
