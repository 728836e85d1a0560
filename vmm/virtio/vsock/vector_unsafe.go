package vsock

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxVector is the most segments one system call takes. The kernel's limit is 1024; more than these few come
// only from a driver that cuts its buffers into crumbs, and it gets smaller packets for that.
const maxVector = 64

// vector is an I/O vector that is used again and again.
type vector struct {
	iov  [maxVector]unix.Iovec
	n    int
	size int
}

func (v *vector) reset() { v.n, v.size = 0, 0 }

// add appends at most limit bytes of segs after the first skip; fewer when the vector is full. It returns how many.
func (v *vector) add(segs [][]byte, skip, limit int) int {
	added := 0
	for _, seg := range segs {
		if skip >= len(seg) {
			skip -= len(seg)
			continue
		}
		seg, skip = seg[skip:], 0
		seg = seg[:min(len(seg), limit-added)]
		if len(seg) == 0 || v.n == maxVector {
			break
		}
		v.iov[v.n].Base = &seg[0]
		v.iov[v.n].SetLen(len(seg))
		v.n++
		added += len(seg)
	}
	v.size += added
	return added
}

func (v *vector) readv(fd uintptr) (int, error)  { return v.call(unix.SYS_READV, fd) }
func (v *vector) writev(fd uintptr) (int, error) { return v.call(unix.SYS_WRITEV, fd) }

func (v *vector) call(number, fd uintptr) (int, error) {
	for {
		n, _, errno := syscall.Syscall(number, fd, uintptr(unsafe.Pointer(&v.iov[0])), uintptr(v.n))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
