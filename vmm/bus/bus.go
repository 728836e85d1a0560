// Package bus routes a guest's accesses of an address space (memory-mapped or port I/O) to the devices there.
package bus

import (
	"fmt"
	"sort"
)

// Handler serves accesses of one range. off counts from the start of the range, and off+len(p) never exceeds its
// size. Calls come from the vCPU threads, several at a time.
type Handler interface {
	Read(off uint64, p []byte)
	Write(off uint64, p []byte)
}

type entry struct {
	base, size uint64
	handler    Handler
}

// Bus is a set of ranges that don't overlap. Insert everything before the first vCPU runs; look-ups take no lock.
// The zero Bus is empty.
type Bus struct {
	entries []entry // by base
}

// Insert gives [base, base+size) to h.
func (b *Bus) Insert(base, size uint64, h Handler) error {
	if size == 0 || base+size < base {
		return fmt.Errorf("bus range of %#x bytes at %#x is empty or wraps", size, base)
	}
	i := sort.Search(len(b.entries), func(i int) bool { return b.entries[i].base >= base })
	if i < len(b.entries) && b.entries[i].base < base+size || i > 0 && b.entries[i-1].base+b.entries[i-1].size > base {
		return fmt.Errorf("bus range of %#x bytes at %#x is taken", size, base)
	}
	b.entries = append(b.entries, entry{})
	copy(b.entries[i+1:], b.entries[i:])
	b.entries[i] = entry{base: base, size: size, handler: h}
	return nil
}

// Read fills p from addr; false when nobody is there.
func (b *Bus) Read(addr uint64, p []byte) bool {
	e := b.find(addr, uint64(len(p)))
	if e == nil {
		return false
	}
	e.handler.Read(addr-e.base, p)
	return true
}

// Write hands p to whoever is at addr; false when nobody is there.
func (b *Bus) Write(addr uint64, p []byte) bool {
	e := b.find(addr, uint64(len(p)))
	if e == nil {
		return false
	}
	e.handler.Write(addr-e.base, p)
	return true
}

func (b *Bus) find(addr, n uint64) *entry {
	i := sort.Search(len(b.entries), func(i int) bool { return b.entries[i].base > addr })
	if i == 0 {
		return nil
	}
	e := &b.entries[i-1]
	if off := addr - e.base; off >= e.size || n > e.size-off {
		return nil
	}
	return e
}
