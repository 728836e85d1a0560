// Package memory is the guest's physical address space as the VMM and its devices see it.
//
// A Space maps guest physical addresses to host memory. It is built once, before the first vCPU runs, and
// never changes after that, so it needs no lock. Every access is bounds-checked: addresses come from the guest.
// The bytes themselves are shared with the running guest; a reader that needs a stable value copies it first.
package memory

import (
	"errors"
	"fmt"
	"math"
	"sort"
)

// ErrOutOfRange is wrapped by every error about an address that is not guest memory.
var ErrOutOfRange = errors.New("outside of guest memory")

// Region is one contiguous piece of guest memory. Bytes may live on the heap (tests) or be a mapping (see Map).
type Region struct {
	Base  uint64 // guest physical address of Bytes[0]
	Bytes []byte
}

func (r Region) end() uint64 { return r.Base + uint64(len(r.Bytes)) }

// Space is an immutable set of regions that don't overlap.
type Space struct {
	regions []Region // by Base
}

// NewSpace returns a space of the given regions. Empty or overlapping regions, and such as wrap around the end
// of the address space, are errors.
func NewSpace(regions ...Region) (*Space, error) {
	rs := append([]Region(nil), regions...)
	sort.Slice(rs, func(i, j int) bool { return rs[i].Base < rs[j].Base })
	for i, r := range rs {
		if len(r.Bytes) == 0 || r.Base > math.MaxUint64-uint64(len(r.Bytes)) {
			return nil, fmt.Errorf("memory region of %d bytes at %#x: empty or beyond the address space", len(r.Bytes), r.Base)
		}
		if i > 0 && rs[i-1].end() > r.Base {
			return nil, fmt.Errorf("memory region at %#x overlaps the one at %#x", r.Base, rs[i-1].Base)
		}
	}
	return &Space{regions: rs}, nil
}

// Regions returns the regions by ascending address. The caller must not change the slice.
func (s *Space) Regions() []Region { return s.regions }

// Size is the sum of all regions, in bytes.
func (s *Space) Size() uint64 {
	var n uint64
	for _, r := range s.regions {
		n += uint64(len(r.Bytes))
	}
	return n
}

// Slice returns the n bytes at addr, which must lie in one region. The capacity is n too.
func (s *Space) Slice(addr, n uint64) ([]byte, error) {
	for i := range s.regions {
		r := &s.regions[i]
		if addr < r.Base {
			break
		}
		off := addr - r.Base
		if size := uint64(len(r.Bytes)); off < size {
			if n > size-off {
				break
			}
			return r.Bytes[off : off+n : off+n], nil
		}
	}
	return nil, fmt.Errorf("%d bytes at %#x: %w", n, addr, ErrOutOfRange)
}

// Write copies p to addr.
func (s *Space) Write(addr uint64, p []byte) error {
	b, err := s.Slice(addr, uint64(len(p)))
	if err != nil {
		return err
	}
	copy(b, p)
	return nil
}

// Read copies len(p) bytes from addr.
func (s *Space) Read(addr uint64, p []byte) error {
	b, err := s.Slice(addr, uint64(len(p)))
	if err != nil {
		return err
	}
	copy(p, b)
	return nil
}
