package stage

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// setgroups is setgroups(2) of the calling thread, where syscall.Setgroups would change all threads.
func setgroups(groups []uint32) error {
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)),
		uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
