package vhost

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Structures of <linux/vhost_types.h>.
type (
	memoryTable struct {
		count, _ uint32
		regions  [8]memoryRegion
	}
	memoryRegion struct{ guest, size, host, _ uint64 }
	vringState   struct{ index, num uint32 }
	vringFile    struct {
		index uint32
		fd    int32
	}
	vringAddr struct {
		index, _             uint32
		desc, used, avail, _ uint64
	}
)

// ioctl makes a request with a structure as its argument. T must have the layout of the C structure.
func ioctl[T any](fd int, request uintptr, p *T) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(p)))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

// hostAddress is where b is in this process. b is mapped, not on the heap.
func hostAddress(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }
