package memory

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"unsafe"
)

// Word is a 16-bit little-endian field of guest memory that guest and VMM both use, such as a ring's index.
//
// Go has no 16-bit atomics. Word goes through the aligned 32-bit word around the field; a store is a
// compare-and-swap that keeps the neighbour, which the guest may be changing at the same time.
type Word struct {
	p     *uint32
	shift uint
}

// WordAt returns the field at addr, which must be even and in one region.
func (s *Space) WordAt(addr uint64) (Word, error) {
	if addr&1 != 0 {
		return Word{}, fmt.Errorf("16-bit field at odd address %#x: %w", addr, ErrOutOfRange)
	}
	b, err := s.Slice(addr&^3, 4)
	if err != nil {
		return Word{}, err
	}
	p := unsafe.Pointer(unsafe.SliceData(b))
	if uintptr(p)&3 != 0 {
		return Word{}, fmt.Errorf("16-bit field at %#x: the region is not aligned in the host", addr)
	}
	return Word{p: (*uint32)(p), shift: wordShift(addr)}, nil
}

// wordShift is where, in a host word, the two bytes at addr are.
func wordShift(addr uint64) uint {
	low := binary.NativeEndian.Uint16([]byte{1, 0}) == 1
	if (addr&2 == 0) == low {
		return 0
	}
	return 16
}

// Load reads the field with acquire semantics.
func (w Word) Load() uint16 {
	return fromLE(uint16(atomic.LoadUint32(w.p) >> w.shift))
}

// Store writes the field with release semantics.
func (w Word) Store(v uint16) {
	bits, mask := uint32(fromLE(v))<<w.shift, uint32(0xffff)<<w.shift
	for {
		old := atomic.LoadUint32(w.p)
		if atomic.CompareAndSwapUint32(w.p, old, old&^mask|bits) {
			return
		}
	}
}

func fromLE(v uint16) uint16 {
	var b [2]byte
	binary.LittleEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}
