package kvm

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctlPtr is ioctl with a structure as its argument. T must have the layout of the C structure.
func ioctlPtr[T any](fd int, request uintptr, p *T) (uintptr, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(p)))
		switch errno {
		case 0:
			return r, nil
		case unix.EINTR:
		default:
			return r, errno
		}
	}
}

// hostAddress is where b is in this process.
func hostAddress(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

// storeWord stores the first aligned 32-bit word of b in one piece.
func storeWord(b []byte, v uint32) {
	_ = b[3]
	atomic.StoreUint32((*uint32)(unsafe.Pointer(unsafe.SliceData(b))), v)
}
