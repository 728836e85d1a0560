package memory

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapAligned maps more than it needs and gives back what is before and behind the aligned part: mmap(2) itself
// aligns to small pages only.
func mapAligned(size, align uintptr) ([]byte, error) {
	p, err := unix.MmapPtr(-1, 0, nil, size+align, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, err
	}
	before := -uintptr(p) & (align - 1)
	start := unsafe.Add(p, before)
	if before > 0 {
		if err := unix.MunmapPtr(p, before); err != nil {
			return nil, err
		}
	}
	if err := unix.MunmapPtr(unsafe.Add(start, size), align-before); err != nil {
		return nil, err
	}
	return unsafe.Slice((*byte)(start), size), nil
}

func unmap(b []byte) error {
	return unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(b)), uintptr(len(b)))
}
