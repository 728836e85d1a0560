package boot

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/huskvm/husk/vmm/arch"
	"github.com/huskvm/husk/vmm/memory"
)

var elfMagic = []byte("\x7fELF")

// ELF-64 structures (System V gABI, chapters 4 and 5).
const (
	elfHeaderSize  = 64
	elfClass64     = 2
	elfLittle      = 1
	elfMachineX86  = 62
	elfTypeExec    = 2
	elfTypeDyn     = 3
	elfProgramSize = 56
	elfLoad        = 1
	elfNote        = 4

	maxPrograms = 64
	maxNotes    = 64 << 10

	// XEN_ELFNOTE_PHYS32_ENTRY: the physical address of the PVH entry.
	noteXenEntry = 18
)

// linuxCmdline is what x86 Linux keeps of a command line when its setup header doesn't say.
const linuxCmdline = arch.MaxCmdline

type elfProgram struct {
	kind                 uint32
	off, size, phys, mem uint64
}

// openELF understands an uncompressed kernel. Segments go to their physical addresses.
func openELF(mem *memory.Space, img Image, want arch.Protocol) (*kernel, error) {
	programs, entry, err := readELF(img)
	if err != nil {
		return nil, fmt.Errorf("kernel (ELF): %w", err)
	}
	k := &kernel{maxCmdline: linuxCmdline, maxInitramfs: 1<<32 - 1}
	var notes elfNotes
	var loaded []span
	for _, p := range programs {
		switch p.kind {
		case elfLoad:
			if p.mem == 0 {
				continue
			}
			s, err := k.segment(mem, img, p, loaded)
			if err != nil {
				return nil, fmt.Errorf("kernel (ELF): %w", err)
			}
			loaded = append(loaded, s)
		case elfNote:
			if err := notes.read(img, p); err != nil {
				return nil, fmt.Errorf("kernel (ELF): %w", err)
			}
		}
	}
	if len(loaded) == 0 {
		return nil, errors.New("kernel (ELF): nothing to load")
	}
	k.entry, err = chooseEntry(want, entry, notes)
	if err != nil {
		return nil, fmt.Errorf("kernel (ELF): %w", err)
	}
	for _, s := range loaded {
		if s.start <= k.entry.PC && k.entry.PC < s.end {
			return k, nil
		}
	}
	return nil, fmt.Errorf("kernel (ELF): the entry %#x is in no segment", k.entry.PC)
}

// readELF returns the program headers and the entry.
func readELF(img Image) ([]elfProgram, uint64, error) {
	var h [elfHeaderSize]byte
	if err := img.readAt(h[:], 0); err != nil {
		return nil, 0, err
	}
	le := binary.LittleEndian
	kind, machine := le.Uint16(h[16:]), le.Uint16(h[18:])
	if h[4] != elfClass64 || h[5] != elfLittle || machine != elfMachineX86 {
		return nil, 0, fmt.Errorf("not for x86-64 (class %d, byte order %d, machine %d): it is of another architecture", h[4], h[5], machine)
	}
	if kind != elfTypeExec && kind != elfTypeDyn {
		return nil, 0, fmt.Errorf("not executable (type %d)", kind)
	}
	off, size, n := le.Uint64(h[32:]), le.Uint16(h[54:]), int(le.Uint16(h[56:]))
	if size != elfProgramSize || n == 0 || n > maxPrograms {
		return nil, 0, fmt.Errorf("%d program headers of %d bytes", n, size)
	}
	table := make([]byte, n*elfProgramSize)
	if off > uint64(img.Size) {
		return nil, 0, fmt.Errorf("program headers at %#x are outside of the file", off)
	}
	if err := img.readAt(table, int64(off)); err != nil {
		return nil, 0, fmt.Errorf("program headers: %w", err)
	}
	programs := make([]elfProgram, n)
	for i := range programs {
		b := table[i*elfProgramSize:]
		programs[i] = elfProgram{
			kind: le.Uint32(b), off: le.Uint64(b[8:]), phys: le.Uint64(b[24:]),
			size: le.Uint64(b[32:]), mem: le.Uint64(b[40:]),
		}
		if p := programs[i]; p.size > 0 && (p.off > uint64(img.Size) || p.size > uint64(img.Size)-p.off) {
			return nil, 0, fmt.Errorf("segment %d, %d bytes at %#x, is outside of the file", i, p.size, p.off)
		}
	}
	return programs, le.Uint64(h[24:]), nil
}

// segment finds the place of one segment. What memory has beyond the file's bytes is zero already.
func (k *kernel) segment(mem *memory.Space, img Image, p elfProgram, loaded []span) (span, error) {
	s := span{start: p.phys, end: p.phys + p.mem, name: "kernel segment"}
	switch {
	case p.size > p.mem || s.end < s.start:
		return s, fmt.Errorf("segment of %d bytes in the file and %d in memory at %#x", p.size, p.mem, p.phys)
	case p.phys < arch.HighMemory:
		return s, fmt.Errorf("segment at %#x: memory below %#x is taken", p.phys, arch.HighMemory)
	}
	if err := reserve(mem, s); err != nil {
		return s, fmt.Errorf("memory is too small: %w", err)
	}
	for _, o := range loaded {
		if s.overlaps(o) {
			return s, fmt.Errorf("segments at %#x and %#x overlap", o.start, s.start)
		}
	}
	to, err := mem.Slice(p.phys, p.size)
	if err != nil {
		return s, err
	}
	if len(to) > 0 {
		k.pieces = append(k.pieces, piece{from: img, off: int64(p.off), to: to, name: "kernel"})
	}
	if k.occupied.end == 0 || s.start < k.occupied.start {
		k.occupied.start = s.start
	}
	k.occupied.end = max(k.occupied.end, s.end)
	return s, nil
}

// elfNotes is what the notes of a kernel say about entering it.
type elfNotes struct {
	linux    bool // a kernel of Linux
	hasPVH   bool
	pvhEntry uint64
}

// read takes what it knows from a note segment. Malformed notes are skipped: they are not what is loaded.
func (n *elfNotes) read(img Image, p elfProgram) error {
	if p.size > maxNotes {
		return fmt.Errorf("notes of %d bytes, at most %d", p.size, maxNotes)
	}
	b := make([]byte, p.size)
	if err := img.readAt(b, int64(p.off)); err != nil {
		return fmt.Errorf("notes: %w", err)
	}
	le := binary.LittleEndian
	for len(b) >= 12 {
		nameLen, descLen, kind := uint64(le.Uint32(b)), uint64(le.Uint32(b[4:])), le.Uint32(b[8:])
		b = b[12:]
		name, rest, ok := cutNote(b, nameLen)
		if !ok {
			return nil
		}
		desc, rest, ok := cutNote(rest, descLen)
		if !ok {
			return nil
		}
		b = rest
		switch string(name) {
		case "Linux\x00":
			n.linux = true
		case "Xen\x00":
			if kind != noteXenEntry {
				break
			}
			// 32 or 64 bits, as the kernel's author pleased.
			switch len(desc) {
			case 4:
				n.pvhEntry, n.hasPVH = uint64(le.Uint32(desc)), true
			case 8:
				n.pvhEntry, n.hasPVH = le.Uint64(desc), true
			}
		}
	}
	return nil
}

// cutNote splits n bytes off b, and what aligns the rest to 4.
func cutNote(b []byte, n uint64) (field, rest []byte, ok bool) {
	if n > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:n], b[min(uint64(len(b)), (n+3)&^3):], true
}

// chooseEntry decides how to enter; see Params.Protocol.
func chooseEntry(want arch.Protocol, entry uint64, n elfNotes) (arch.Entry, error) {
	if want == 0 {
		want = arch.LinuxBoot64
		if n.hasPVH && !n.linux {
			want = arch.PVH
		}
	}
	if want != arch.PVH {
		return arch.Entry{Protocol: arch.LinuxBoot64, PC: entry}, nil
	}
	if !n.hasPVH {
		return arch.Entry{}, errors.New("no PVH entry (Linux: CONFIG_PVH)")
	}
	if n.pvhEntry > 1<<32-1 {
		return arch.Entry{}, fmt.Errorf("PVH entry %#x is above 4 GiB", n.pvhEntry)
	}
	return arch.Entry{Protocol: arch.PVH, PC: n.pvhEntry}, nil
}
