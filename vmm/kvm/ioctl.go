package kvm

import "golang.org/x/sys/unix"

// Request numbers, as <linux/kvm.h> makes them with _IO, _IOR, _IOW and _IOWR. The direction bits are those of
// every architecture with a built-in VMM (x86, arm64, riscv64, s390x); ppc64 and mips have others.
const (
	getAPIVersion       = 0xae00
	createVM            = 0xae01
	checkExtension      = 0xae03
	getVCPUMmapSize     = 0xae04
	createVCPU          = 0xae41
	setUserMemoryRegion = 0x4020ae46
	createIRQChip       = 0xae60
	irqLine             = 0x4008ae61
	irqFD               = 0x4020ae76
	ioEventFD           = 0x4040ae79
	run                 = 0xae80
	getMPState          = 0x8004ae98
	setMPState          = 0x4004ae99
	enableCap           = 0x4068aea3
)

// The calls that take structures live in ioctl_unsafe.go.

// ioctl repeats the call when a signal of the Go runtime interrupts it, which KVM_CREATE_VM and others allow.
// KVM_RUN does not come through here.
func ioctl(fd int, request, arg uintptr) (uintptr, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, arg)
		switch errno {
		case 0:
			return r, nil
		case unix.EINTR:
		default:
			return r, errno
		}
	}
}
