//go:build amd64

package boot_test

import (
	"bytes"
	"encoding/binary"
)

// segment is one PT_LOAD of a kernel made for a test, or one PT_NOTE.
type segment struct {
	phys uint64
	data []byte
	mem  uint64 // of memory; 0 means len(data)
	note bool
}

// elf is an ELF-64 kernel for x86-64 whose entry is the first segment's start.
func elf(segments ...segment) []byte {
	le := binary.LittleEndian
	const header, program = 64, 56
	b := make([]byte, header+program*len(segments))
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 2)
	le.PutUint16(b[18:], 62)
	le.PutUint64(b[24:], segments[0].phys)
	le.PutUint64(b[32:], header)
	le.PutUint16(b[54:], program)
	le.PutUint16(b[56:], uint16(len(segments)))
	for i, s := range segments {
		p := b[header+program*i:]
		kind := uint32(1)
		if s.note {
			kind = 4
		}
		if s.mem == 0 {
			s.mem = uint64(len(s.data))
		}
		le.PutUint32(p, kind)
		le.PutUint64(p[8:], uint64(len(b)))
		le.PutUint64(p[24:], s.phys)
		le.PutUint64(p[32:], uint64(len(s.data)))
		le.PutUint64(p[40:], s.mem)
		b = append(b, s.data...)
	}
	return b
}

// note is one ELF note.
func note(name string, kind uint32, desc []byte) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, uint32(len(name)+1))
	b = le.AppendUint32(b, uint32(len(desc)))
	b = le.AppendUint32(b, kind)
	b = append(append(b, name...), 0)
	b = append(b, make([]byte, -len(b)&3)...)
	b = append(b, desc...)
	return append(b, make([]byte, -len(b)&3)...)
}

// bzImage is a kernel by the 64-bit protocol with the given payload.
func bzImage(payload []byte) []byte {
	le := binary.LittleEndian
	b := make([]byte, 2*512)
	b[0x1f1] = 1
	le.PutUint16(b[0x1fe:], 0xaa55)
	b[0x201] = 0x6a
	copy(b[0x202:], "HdrS")
	le.PutUint16(b[0x206:], 0x020f)
	b[0x211] = 1
	le.PutUint32(b[0x22c:], 0x7fffffff)
	le.PutUint16(b[0x236:], 1)
	le.PutUint32(b[0x238:], 2047)
	le.PutUint64(b[0x258:], 1<<20)
	le.PutUint32(b[0x260:], 2<<20)
	return append(b, bytes.Clone(payload)...)
}
