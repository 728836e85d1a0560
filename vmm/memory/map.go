package memory

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// hugePage is what the mapping is aligned to. A guest's first touch of each page is an exit; backed by huge pages, a
// boot has some twenty of those instead of eight thousand.
const hugePage = 2 << 20

// Map returns size bytes of private anonymous memory, zeroed, charged only as it is touched.
//
// Private rather than a shared memfd: shared pages are charged twice under a memory cgroup, and MADV_DONTNEED
// gives private ones back at once.
func Map(size uint64) ([]byte, error) {
	b, err := mapAligned(uintptr(size), hugePage)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes of guest memory: %w", size, err)
	}
	// Neither is ever wrong for a guest, and neither may be there: a core of the VMM need not hold the guest,
	// and the guest's own huge pages are worth little without ours.
	_ = unix.Madvise(b, unix.MADV_DONTDUMP)
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	return b, nil
}

// Unmap returns what Map returned.
func Unmap(b []byte) error { return unmap(b) }

// Discard is the function of that name for the range [addr, addr+n), which must lie in one region.
func (s *Space) Discard(addr, n uint64) error {
	b, err := s.Slice(addr, n)
	if err != nil {
		return err
	}
	return Discard(b)
}
