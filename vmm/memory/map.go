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

// Discard gives the pages of [addr, addr+n) back to the host; the guest reads zeroes there afterwards. The range
// is shrunk to whole pages, since the rest of a page may be in use.
func (s *Space) Discard(addr, n uint64) error {
	b, err := s.Slice(addr, n)
	if err != nil {
		return err
	}
	const page = 4096
	skip := -addr & (page - 1)
	if n < skip+page {
		return nil
	}
	b = b[skip : skip+(n-skip)&^uint64(page-1)]
	if err := unix.Madvise(b, unix.MADV_DONTNEED); err != nil {
		return fmt.Errorf("discard %d bytes at %#x: %w", n, addr, err)
	}
	return nil
}
