package queue_test

import (
	"encoding/binary"
	"testing"

	"github.com/huskvm/husk/vmm/virtio/virtiotest"
)

const (
	flagNext     = 1
	flagWrite    = 2
	flagIndirect = 4
)

type entry struct {
	addr        uint64
	size        uint32
	flags, next uint16
}

// table puts an indirect table into memory.
func (p *pair) table(entries ...entry) (addr uint64, size uint32) {
	var b []byte
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint64(b, e.addr)
		b = binary.LittleEndian.AppendUint32(b, e.size)
		b = binary.LittleEndian.AppendUint16(b, e.flags)
		b = binary.LittleEndian.AppendUint16(b, e.next)
	}
	return p.d.Put(b), uint32(len(b))
}

func (p *pair) set(entries ...entry) {
	for i, e := range entries {
		p.SetDesc(uint16(i), e.addr, e.size, e.flags, e.next)
	}
}

// §2.7.5: what a chain of the descriptor table may not be.
func TestDirectChainsThatAreOffences(t *testing.T) {
	const in = virtiotest.Base // some memory
	for name, c := range map[string]struct {
		entries []entry
		head    uint16
		reason  string
	}{
		"loop of one":         {[]entry{{in, 1, flagNext, 0}}, 0, "loops"},
		"loop of two":         {[]entry{{in, 1, flagNext, 1}, {in, 1, flagNext, 0}}, 0, "loops"},
		"loop behind":         {[]entry{{in, 1, flagNext, 1}, {in, 1, flagNext, 1}}, 0, "loops"},
		"head out of range":   {nil, 4, "descriptor 4 of a table of 4"},
		"next out of range":   {[]entry{{in, 1, flagNext, 65535}}, 0, "descriptor 65535 of a table of 4"},
		"before memory":       {[]entry{{in - 1, 1, 0, 0}}, 0, "outside of guest memory"},
		"across memory's end": {[]entry{{in + 1<<20 - 1, 2, 0, 0}}, 0, "outside of guest memory"},
		"address wraps":       {[]entry{{1<<64 - 1, 2, flagWrite, 0}}, 0, "outside of guest memory"},
		"too long a buffer":   {[]entry{{in, 1<<32 - 1, flagWrite, 0}}, 0, "outside of guest memory"},
		"read after write":    {[]entry{{in, 1, flagWrite | flagNext, 1}, {in, 1, 0, 0}}, 0, "after a writable one"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, 4)
			p.set(c.entries...)
			p.SubmitHead(c.head)
			p.refused(t, c.reason)
		})
	}
}

// §2.7.5.3: indirect descriptors.
func TestIndirectChainsThatAreOffences(t *testing.T) {
	const in = virtiotest.Base
	for name, c := range map[string]struct {
		table  []entry
		head   func(addr uint64, size uint32) entry
		reason string
	}{
		"indirect in indirect": {
			[]entry{{in, 16, flagIndirect, 0}}, nil, "in an indirect table"},
		"indirect with next": {
			[]entry{{in, 1, 0, 0}},
			func(a uint64, n uint32) entry { return entry{a, n, flagIndirect | flagNext, 1} }, "with a next one"},
		"empty table": {
			nil, func(a uint64, n uint32) entry { return entry{in, 0, flagIndirect, 0} }, "table of 0 bytes"},
		"table of half a descriptor": {
			[]entry{{in, 1, 0, 0}},
			func(a uint64, n uint32) entry { return entry{a, 24, flagIndirect, 0} }, "table of 24 bytes"},
		"table too long": {
			nil, func(a uint64, n uint32) entry { return entry{in, 16 * 1025, flagIndirect, 0} }, "table of 16400 bytes"},
		"table outside of memory": {
			nil, func(a uint64, n uint32) entry { return entry{0, 16, flagIndirect, 0} }, "outside of guest memory"},
		"next out of the table": {
			[]entry{{in, 1, flagNext, 1}}, nil, "descriptor 1 of a table of 1"},
		"loop in the table": {
			[]entry{{in, 1, flagNext, 1}, {in, 1, flagNext, 0}}, nil, "loops"},
		"read after write": {
			[]entry{{in, 1, flagWrite | flagNext, 1}, {in, 1, 0, 0}}, nil, "after a writable one"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, 4)
			addr, size := p.table(c.table...)
			head := entry{addr, size, flagIndirect, 0}
			if c.head != nil {
				head = c.head(addr, size)
			}
			p.set(head)
			p.SubmitHead(0)
			p.refused(t, c.reason)
		})
	}
}

func TestIndirectNeedsTheFeature(t *testing.T) {
	p := newPair(t, 4)
	p.Config.Indirect = false
	p.dev = device(t, p.d, p.Queue)
	addr, size := p.table(entry{virtiotest.Base, 1, 0, 0})
	p.set(entry{addr, size, flagIndirect, 0})
	p.SubmitHead(0)
	p.refused(t, "not negotiated")
}

// A chain may end in an indirect descriptor; its table may be in any order and longer than the queue; the write
// flag of the indirect descriptor itself means nothing (§2.7.5.3.2).
func TestDirectThenIndirectIsOneChain(t *testing.T) {
	p := newPair(t, 2)
	a, b := p.d.Put([]byte("ab")), p.d.Put([]byte("cdef"))
	room := p.d.Alloc(16)
	addr, size := p.table(
		entry{b, 1, flagNext, 2},
		entry{room, 16, flagWrite, 0},
		entry{b + 1, 3, flagNext, 1})
	p.set(entry{a, 2, flagNext, 1}, entry{addr, size, flagIndirect | flagWrite, 0})
	p.SubmitHead(0)
	c := p.pop(t)
	got := make([]byte, 10)
	n, err := c.Read(got)
	if string(got[:n]) != "abcdef" || err != nil || c.WritableLen() != 16 {
		t.Errorf("read %q, %v; room for %d", got[:n], err, c.WritableLen())
	}
}

func TestTheLongestIndirectTable(t *testing.T) {
	p := newPair(t, 1)
	entries := make([]entry, 1024)
	for i := range entries {
		entries[i] = entry{virtiotest.Base, 1, flagNext, uint16(i + 1)}
	}
	entries[1023].flags = 0
	addr, size := p.table(entries...)
	p.set(entry{addr, size, flagIndirect, 0})
	p.SubmitHead(0)
	if c := p.pop(t); c.ReadableLen() != 1024 {
		t.Errorf("%d bytes", c.ReadableLen())
	}
}

func TestAFullTableIsOneChain(t *testing.T) {
	p := newPair(t, 4)
	p.Submit(0, virtiotest.Desc{Addr: virtiotest.Base, Len: 1}, virtiotest.Desc{Addr: virtiotest.Base, Len: 1},
		virtiotest.Desc{Addr: virtiotest.Base, Len: 1}, virtiotest.Desc{Addr: virtiotest.Base, Len: 1})
	if c := p.pop(t); c.ReadableLen() != 4 {
		t.Errorf("%d bytes", c.ReadableLen())
	}
}
