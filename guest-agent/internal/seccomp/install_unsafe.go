package seccomp

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

//go:generate go run ./gen

// Install filters the calling thread, which must be locked, have no_new_privs or CAP_SYS_ADMIN, and execute its
// program next: the threads of this process that it leaves unfiltered end there.
func (f *Filter) Install() error { return f.install(0) }

// InstallOnAll filters every thread of the process, from one that still has CAP_SYS_ADMIN on behalf of one that
// has not.
func (f *Filter) InstallOnAll() error { return f.install(unix.SECCOMP_FILTER_FLAG_TSYNC) }

func (f *Filter) install(flags uintptr) error {
	prog := unix.SockFprog{Len: uint16(len(f.program)), Filter: &f.program[0]}
	r, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, f.flags|flags,
		uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(f)
	if errno != 0 {
		return fmt.Errorf("seccomp: install: %w", errno)
	}
	if r != 0 {
		return fmt.Errorf("seccomp: thread %d can't be filtered", r)
	}
	return nil
}
