package blk

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// vector is the iovec array of one worker. (unix.Preadv makes a new one each time.)
type vector [128]unix.Iovec

// preadv reads from off into the first n bytes of segs, or some of them; at least one.
func (v *vector) preadv(fd int, segs [][]byte, n uint64, off int64) (uint64, error) {
	return v.call(unix.SYS_PREADV, fd, segs, n, off)
}

// pwritev writes the first n bytes of segs to off, or some of them; at least one.
func (v *vector) pwritev(fd int, segs [][]byte, n uint64, off int64) (uint64, error) {
	return v.call(unix.SYS_PWRITEV, fd, segs, n, off)
}

func (v *vector) call(trap uintptr, fd int, segs [][]byte, n uint64, off int64) (uint64, error) {
	count := v.load(segs, n)
	for {
		done, _, errno := unix.Syscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(&v[0])), uintptr(count),
			uintptr(off), uintptr(uint64(off)>>32), 0)
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return 0, errno
		case done == 0:
			return 0, errEnd
		default:
			return uint64(done), nil
		}
	}
}

func (v *vector) load(segs [][]byte, n uint64) (count int) {
	for _, seg := range segs {
		if n == 0 || count == len(v) {
			break
		}
		if len(seg) == 0 {
			continue
		}
		seg = seg[:min(n, uint64(len(seg)))]
		v[count].Base = &seg[0]
		v[count].SetLen(len(seg))
		n -= uint64(len(seg))
		count++
	}
	return count
}
