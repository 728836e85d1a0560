package memory

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Map returns size bytes of private anonymous memory, zeroed, charged only as it is touched.
//
// Private rather than a shared memfd: shared pages are charged twice under a memory cgroup, and MADV_DONTNEED
// gives private ones back at once.
func Map(size uint64) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
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
func Unmap(b []byte) error { return unix.Munmap(b) }

// Discard is the function of that name for the range [addr, addr+n), which must lie in one region.
func (s *Space) Discard(addr, n uint64) error {
	b, err := s.Slice(addr, n)
	if err != nil {
		return err
	}
	return Discard(b)
}
