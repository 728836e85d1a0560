package cgroup

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/bpf"
)

// ring is where programs of the kernel tell that something has happened: a ring buffer (BPF_MAP_TYPE_RINGBUF).
type ring struct {
	fd       int
	file     *os.File // the same, with the runtime's poller
	consumer []byte   // a page that begins with how far this side has read
	producer []byte   // a page that begins with how far the kernel has written, and the data
}

func newRing() (*ring, error) {
	page := os.Getpagesize()
	fd, err := bpf.NewMap(unix.BPF_MAP_TYPE_RINGBUF, 0, 0, uint32(page))
	if err != nil {
		return nil, fmt.Errorf("make a ring buffer: %w", err)
	}
	r := &ring{fd: fd}
	if r.consumer, err = unix.Mmap(fd, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
		r.producer, err = unix.Mmap(fd, int64(page), page, unix.PROT_READ, unix.MAP_SHARED)
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		for _, page := range [][]byte{r.consumer, r.producer} {
			if page != nil {
				_ = unix.Munmap(page)
			}
		}
		_ = unix.Close(fd)
		return nil, fmt.Errorf("map a ring buffer: %w", err)
	}
	r.file = os.NewFile(uintptr(fd), "bpf-ring")
	return r, nil
}

// take forgets what is in the ring, and says whether there was anything.
func (r *ring) take() bool {
	read, written := (*uint64)(unsafe.Pointer(&r.consumer[0])), (*uint64)(unsafe.Pointer(&r.producer[0]))
	end := atomic.LoadUint64(written)
	return atomic.SwapUint64(read, end) != end
}
