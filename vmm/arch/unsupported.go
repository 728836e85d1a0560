//go:build !amd64

package arch

import (
	"github.com/huskvm/husk/vmm/kvm"
	"github.com/huskvm/husk/vmm/memory"
)

// Supported says that there is a built-in machine.
const Supported = false

// Required is empty: NewPlatform says what is missing.
var Required []kvm.Capability

// SlotSize is the size of every MMIO slot; there are MaxSlots.
const (
	SlotSize  = 0x1000
	MaxSlots  = 0
	SerialIRQ = 0
)

// Platform can't be had.
type Platform struct{}

// Word is a word of the kernel's command line, and why it is there.
type Word struct{ Word, Reason string }

// MemoryRanges answers ErrUnsupported.
func MemoryRanges(uint64) ([]Range, error) { return nil, ErrUnsupported }

// MMIOSlot answers ErrUnsupported.
func MMIOSlot(int) (Slot, error) { return Slot{}, ErrUnsupported }

// NewPlatform answers ErrUnsupported.
func NewPlatform(*kvm.System, *kvm.VM, int) (*Platform, error) { return nil, ErrUnsupported }

// AddCPU answers ErrUnsupported.
func (*Platform) AddCPU(int) (*kvm.VCPU, error) { return nil, ErrUnsupported }

// WriteTables answers ErrUnsupported.
func WriteTables(*memory.Space, int) error { return ErrUnsupported }

// Enter answers ErrUnsupported.
func Enter(*kvm.VCPU, *memory.Space, Entry) error { return ErrUnsupported }

// KernelWords has none.
func KernelWords(bool, []Slot) []Word { return nil }

// Cmdline answers ErrUnsupported.
func Cmdline([]Word, string) (string, error) { return "", ErrUnsupported }
