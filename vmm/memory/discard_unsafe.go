package memory

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Discard gives b, a piece of private anonymous memory, back to the host: zeroes are read there afterwards. b is
// shrunk to whole pages of the host, since the rest of a page may be in use.
func Discard(b []byte) error {
	page := uintptr(os.Getpagesize())
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (page - 1)
	if uintptr(len(b)) < skip+page {
		return nil
	}
	b = b[skip : skip+(uintptr(len(b))-skip)&^(page-1)]
	if err := unix.Madvise(b, unix.MADV_DONTNEED); err != nil {
		return fmt.Errorf("discard %d bytes: %w", len(b), err)
	}
	return nil
}
