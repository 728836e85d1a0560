package vhostuser

import (
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/memory"
)

// table is guest memory as the front end has given it: mapped here, and known by the front end's addresses too.
type table struct {
	regions  []region
	mappings [][]byte
	space    *memory.Space
}

// mapTable maps each region from the descriptor of the same index, which stays the caller's.
func mapTable(regions []region, fds []int) (*table, error) {
	t := &table{regions: regions}
	var parts []memory.Region
	for i, r := range regions {
		b, err := t.mapRegion(r, fds[i])
		if err != nil {
			return nil, errors.Join(fmt.Errorf("map %#x bytes of guest memory at %#x: %w", r.size, r.guest, err), t.unmap())
		}
		parts = append(parts, memory.Region{Base: r.guest, Bytes: b})
	}
	space, err := memory.NewSpace(parts...)
	if err != nil {
		return nil, errors.Join(err, t.unmap())
	}
	t.space = space
	return t, nil
}

func (t *table) mapRegion(r region, fd int) ([]byte, error) {
	page, err := pageSize(fd, r.offset+r.size)
	if err != nil {
		return nil, err
	}
	start := r.offset &^ (page - 1)
	length := (r.offset + r.size - start + page - 1) &^ (page - 1)
	if length < r.size || length > math.MaxInt || start > math.MaxInt64 {
		return nil, unix.EOVERFLOW
	}
	m, err := unix.Mmap(fd, int64(start), int(length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return nil, err
	}
	t.mappings = append(t.mappings, m)
	_ = unix.Madvise(m, unix.MADV_DONTDUMP) // a core of ours need not hold the guest
	first := r.offset - start
	return m[first : first+r.size : first+r.size], nil
}

// pageSize is that of the file's pages, which mappings of it consist of. The file must have size bytes: a touch of
// what lies beyond is a bus error.
func pageSize(fd int, size uint64) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, errors.New("not a file; QEMU needs a memory backend with share=on")
	}
	if uint64(st.Size) < size {
		return 0, fmt.Errorf("the file has %#x bytes, %#x are needed", st.Size, size)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return 0, err
	}
	page := uint64(os.Getpagesize())
	if huge := uint64(fs.Bsize); uint64(fs.Type) == unix.HUGETLBFS_MAGIC && huge&(huge-1) == 0 {
		page = max(page, huge)
	}
	return page, nil
}

// guest is the guest's name for an address of the front end's.
func (t *table) guest(user uint64) (uint64, error) {
	for _, r := range t.regions {
		if user >= r.user && user-r.user < r.size {
			return r.guest + (user - r.user), nil
		}
	}
	return 0, fmt.Errorf("address %#x of the front end: %w", user, memory.ErrOutOfRange)
}

// unmap ends all use of the space.
func (t *table) unmap() error {
	var err error
	for _, m := range t.mappings {
		err = errors.Join(err, unix.Munmap(m))
	}
	t.mappings, t.space = nil, nil
	return err
}
