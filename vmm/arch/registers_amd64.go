package arch

import (
	"encoding/binary"
	"fmt"

	"github.com/huskvm/husk/vmm/kvm"
	"github.com/huskvm/husk/vmm/memory"
)

// Control register bits (Intel SDM 3A, 2.5; AMD APM 2, 3.1).
const (
	cr0PE   = 1 << 0
	cr0ET   = 1 << 4
	cr0NE   = 1 << 5
	cr0PG   = 1 << 31
	cr4PAE  = 1 << 5
	eferLME = 1 << 8
	eferLMA = 1 << 10

	rflagsReserved = 1 << 1
)

// Selectors that the 64-bit protocol prescribes: __BOOT_CS and __BOOT_DS.
const (
	selCode = 0x10
	selData = 0x18
	selTSS  = 0x20
)

// Page table bits.
const (
	ptePresent  = 1 << 0
	pteWritable = 1 << 1
	pteLarge    = 1 << 7
)

// Enter puts the first vCPU where entry says, with the registers and tables that its protocol prescribes. The
// others need nothing: the kernel wakes them with INIT and SIPI.
func Enter(c *kvm.VCPU, mem *memory.Space, entry Entry) error {
	s, err := c.Sregs()
	if err != nil {
		return err
	}
	regs := kvm.Regs{RIP: entry.PC, RFLAGS: rflagsReserved, RSP: stackTop, RBP: stackTop}
	switch entry.Protocol {
	case LinuxBoot64:
		regs.RSI = entry.Params
		if err := writeTables64(mem); err != nil {
			return err
		}
		longMode(&s)
	case PVH:
		regs.RBX = entry.Params
		protectedMode(&s)
	default:
		return fmt.Errorf("enter the kernel by %s", entry.Protocol)
	}
	if err := c.SetSregs(&s); err != nil {
		return err
	}
	return c.SetRegs(&regs)
}

// flat is a segment over everything.
func flat(selector uint16, kind uint8) kvm.Segment {
	return kvm.Segment{Limit: 0xffffffff, Selector: selector, Type: kind, Present: 1, S: 1, Granularity: 1}
}

// Types of segment descriptors.
const (
	segCode    = 0xb // execute, read, accessed
	segData    = 0x3 // read, write, accessed
	segBusyTSS = 0xb
)

func setSegments(s *kvm.Sregs, code, data kvm.Segment) {
	data.DB = 1
	s.CS, s.DS, s.ES, s.FS, s.GS, s.SS = code, data, data, data, data, data
	s.TR = kvm.Segment{Limit: 0x67, Selector: selTSS, Type: segBusyTSS, Present: 1}
	s.IDT = kvm.Table{}
}

// longMode is what Documentation/arch/x86/boot.rst asks for under "64-bit Boot Protocol".
func longMode(s *kvm.Sregs) {
	code := flat(selCode, segCode)
	code.L = 1
	setSegments(s, code, flat(selData, segData))
	s.GDT = kvm.Table{Base: gdtAddr, Limit: gdtEntries*8 - 1}
	s.CR0 = cr0PE | cr0ET | cr0NE | cr0PG
	s.CR3 = pageTables
	s.CR4 = cr4PAE
	s.EFER = eferLME | eferLMA
}

// protectedMode is what Xen's docs/misc/pvh.pandoc asks for: flat 32-bit segments, no paging, any GDT.
func protectedMode(s *kvm.Sregs) {
	code := flat(selCode, segCode)
	code.DB = 1
	setSegments(s, code, flat(selData, segData))
	s.GDT = kvm.Table{}
	s.CR0 = cr0PE | cr0ET
	s.CR3, s.CR4, s.EFER = 0, 0, 0
}

const gdtEntries = 6

// writeTables64 writes the GDT, and page tables that map the first 4 GiB to themselves in pages of 2 MiB.
func writeTables64(mem *memory.Space) error {
	gdt := [gdtEntries]uint64{
		selCode / 8: descriptor(segCode, 1),
		selData / 8: descriptor(segData, 0),
		// A TSS descriptor is 16 bytes in long mode; base 0, limit 0x67, present and busy.
		selTSS / 8: 0x00008b0000000067,
	}
	if err := writeWords(mem, gdtAddr, gdt[:]); err != nil {
		return err
	}
	const (
		page   = 0x1000
		large  = 2 << 20
		tables = 4 // page directories, 1 GiB each
	)
	words := make([]uint64, (2+tables)*page/8)
	pml4, pdpt, pd := words[:512], words[512:1024], words[1024:]
	pml4[0] = pageTables + page | ptePresent | pteWritable
	for i := range uint64(tables) {
		pdpt[i] = pageTables + (2+i)*page | ptePresent | pteWritable
	}
	for i := range pd {
		pd[i] = uint64(i)*large | ptePresent | pteWritable | pteLarge
	}
	return writeWords(mem, pageTables, words)
}

// descriptor is a flat, present, ring 0 segment descriptor, for long mode when long is 1.
func descriptor(kind, long uint64) uint64 {
	const (
		limit       = 0x000f00000000ffff
		present     = 1 << 47
		codeOrData  = 1 << 44
		granularity = 1 << 55
	)
	return limit | present | codeOrData | granularity | kind<<40 | long<<53 | (1-long)<<54
}

func writeWords(mem *memory.Space, addr uint64, words []uint64) error {
	b, err := mem.Slice(addr, uint64(len(words))*8)
	if err != nil {
		return err
	}
	for i, w := range words {
		binary.LittleEndian.PutUint64(b[8*i:], w)
	}
	return nil
}
