package cgroup

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// programAttr and attachAttr are the members of union bpf_attr for BPF_PROG_LOAD and BPF_PROG_ATTACH.
type programAttr struct {
	kind, count    uint32
	instructions   unsafe.Pointer
	license        unsafe.Pointer
	logLevel, size uint32
	log            unsafe.Pointer
	version, flags uint32
	name           [16]byte
	device, attach uint32
}

type attachAttr struct {
	target, program, kind, flags uint32
}

func bpf(command int, attr unsafe.Pointer, size uintptr) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(attr), size)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// loadTries is for a kernel that gives EAGAIN for a reason of its own: signals never come so often.
const loadTries = 1000

// loadProgram has the kernel check a program, which is to be attached somewhere. It does so again for as long as a signal
// was in the way: then the verifier breaks off with EAGAIN, and Go's scheduler sends signals wherever it preempts.
func loadProgram(program []instruction, kind, where uint32) (int, error) {
	license := []byte("Apache-2.0\x00")
	load := programAttr{
		kind:         kind,
		count:        uint32(len(program)),
		instructions: unsafe.Pointer(&program[0]),
		license:      unsafe.Pointer(&license[0]),
		attach:       where,
	}
	defer runtime.KeepAlive(program)
	var err error
	for range loadTries {
		var fd int
		if fd, err = bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&load), unsafe.Sizeof(load)); !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
	return -1, err
}

// attach gives a program of a kind to the group, which keeps it.
func attach(group int, program []instruction, kind, where uint32) error {
	fd, err := loadProgram(program, kind, where)
	if err != nil {
		return fmt.Errorf("load program: %w", err)
	}
	defer unix.Close(fd)
	attach := attachAttr{target: uint32(group), program: uint32(fd), kind: where, flags: unix.BPF_F_ALLOW_MULTI}
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attach), unsafe.Sizeof(attach)); err != nil {
		return fmt.Errorf("attach program: %w", err)
	}
	return nil
}
