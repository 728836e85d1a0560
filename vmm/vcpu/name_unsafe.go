package vcpu

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// nameThread gives the calling thread a name of at most 15 bytes, by which the host tells a guest's time from the VMM's.
func nameThread(name string) {
	p, err := unix.BytePtrFromString(name)
	if err == nil {
		_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(p)), 0, 0, 0)
	}
}
