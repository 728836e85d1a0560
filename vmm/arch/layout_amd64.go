package arch

import (
	"fmt"

	"github.com/huskvm/husk/vmm/memory"
)

// The guest's physical address space. Memory fills it from 0, leaves out a hole below 4 GiB for devices, and goes
// on above. Below 1 MiB is what the VMM leaves for the kernel to find.
//
//	0x00000500  GDT for the 64-bit entry
//	0x00006000  PVH start info, its module list and its memory map
//	0x00007000  zero page
//	0x00008ff0  stack top
//	0x00009000  page tables for the 64-bit entry: one PML4, one PDPT, four PDs; identity, 4 GiB
//	0x00010000  setup_data
//	0x00020000  command line
//	0x000f0000  MP tables (not memory, as far as the memory map says)
//	0x00100000  kernel, or above; the initramfs ends where low memory does
//	0xd0000000  MMIO slots
//	0xfec00000  I/O APIC
//	0xfee00000  local APIC
//	0xfffbc000  identity map page, then the TSS pages, for KVM
const (
	gdtAddr       = 0x500
	StartInfoAddr = 0x6000
	ZeroPageAddr  = 0x7000
	stackTop      = 0x8ff0
	pageTables    = 0x9000
	SetupDataAddr = 0x10000
	CmdlineAddr   = 0x20000

	// LowMemoryEnd is where conventional memory ends and the 384 KiB of adapters and firmware begin, which hold
	// nothing here but the MP tables.
	LowMemoryEnd = 0xa0000
	mpTableAddr  = 0xf0000
	mpTableMax   = 0x10000
	// HighMemory is where a kernel may begin.
	HighMemory = 0x100000

	holeStart = 0xd0000000
	holeEnd   = 1 << 32

	mmioBase = 0xd0000000
	// SlotSize is the size of every MMIO slot.
	SlotSize = 0x1000

	ioAPICAddr      = 0xfec00000
	localAPICAddr   = 0xfee00000
	identityMapAddr = 0xfffbc000
	tssAddr         = identityMapAddr + 0x1000

	// Lines 0 to 4 have owners on every PC, the serial port's 4 the last of them. The I/O APIC has 24.
	firstIRQ = 5
	lastIRQ  = 23
	ioPins   = 24

	// SerialIRQ is the line of the first serial port.
	SerialIRQ = 4
)

// MaxSlots is how many MMIO slots there are.
const MaxSlots = lastIRQ - firstIRQ + 1

// MaxCmdline is the longest command line that x86 Linux keeps.
const MaxCmdline = 2047

// minMemory is the least that makes sense to lay out; no Linux boots in it.
const minMemory = 2 << 20

// MemoryRanges says where size bytes of memory lie.
func MemoryRanges(size uint64) ([]Range, error) {
	const page = 4096
	switch {
	case size < minMemory:
		return nil, fmt.Errorf("memory of %d bytes is less than %d", size, minMemory)
	case size%page != 0:
		return nil, fmt.Errorf("memory of %d bytes is not whole pages", size)
	case size > 1<<46:
		return nil, fmt.Errorf("memory of %d bytes is more than a guest can address", size)
	case size <= holeStart:
		return []Range{{0, size}}, nil
	}
	return []Range{{0, holeStart}, {holeEnd, size - holeStart}}, nil
}

// MMIOSlot is the place of the n-th device.
func MMIOSlot(n int) (Slot, error) {
	if n < 0 || n >= MaxSlots {
		return Slot{}, fmt.Errorf("device %d: a machine has %d slots", n, MaxSlots)
	}
	return Slot{Base: mmioBase + uint64(n)*SlotSize, IRQ: uint32(firstIRQ + n)}, nil
}

// MapType is the kind of an entry of the memory map, numbered as in e820.
type MapType uint32

// Kinds of memory.
const (
	MapRAM      MapType = 1
	MapReserved MapType = 2
)

// MapEntry is an entry of the memory map that a kernel is given.
type MapEntry struct {
	Range
	Type MapType
}

// MemoryMap is the map of mem: what a kernel may use, and what it must not.
func MemoryMap(mem *memory.Space) []MapEntry {
	var m []MapEntry
	for _, r := range mem.Regions() {
		base, end := r.Base, r.Base+uint64(len(r.Bytes))
		if base < LowMemoryEnd {
			m = append(m,
				MapEntry{Range{base, min(end, LowMemoryEnd) - base}, MapRAM},
				MapEntry{Range{mpTableAddr, mpTableMax}, MapReserved})
			base = HighMemory
		}
		if base < end {
			m = append(m, MapEntry{Range{base, end - base}, MapRAM})
		}
	}
	return m
}
