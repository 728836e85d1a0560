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
	if b = wholePages(b); len(b) == 0 {
		return nil
	}
	if err := unix.Madvise(b, unix.MADV_DONTNEED); err != nil {
		return fmt.Errorf("discard %d bytes: %w", len(b), err)
	}
	return nil
}

// Populate has the kernel provide the pages of b at once, where it can (Linux 5.14): a page fault for each of them
// takes longer than copying a kernel does.
func Populate(b []byte) {
	if b = wholePages(b); len(b) > 0 {
		_ = unix.Madvise(b, unix.MADV_POPULATE_WRITE)
	}
}

// wholePages is the part of b that consists of whole pages of the host.
func wholePages(b []byte) []byte {
	page := uintptr(os.Getpagesize())
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (page - 1)
	if uintptr(len(b)) < skip+page {
		return nil
	}
	return b[skip : skip+(uintptr(len(b))-skip)&^(page-1)]
}
