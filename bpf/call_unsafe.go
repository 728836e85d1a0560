package bpf

import (
	"errors"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

//lint:file-ignore U1000 the kernel wants to see zeros in what is not used, which blank fields need not be

// Members of union bpf_attr, for the commands that are used here.
type (
	mapAttr     struct{ kind, keySize, valueSize, entries uint32 }
	elementAttr struct {
		table, pad uint32
		key, value unsafe.Pointer
		flags      uint64
	}
	programAttr struct {
		kind, count    uint32
		instructions   unsafe.Pointer
		license        unsafe.Pointer
		logAndName     [40]byte
		device, attach uint32
	}
	attachAttr struct{ target, program, attach, flags uint32 }
	linkAttr   struct{ program, target, attach, flags uint32 }
)

// call is bpf(2). What it answers is a descriptor, which programs started by this process do not get.
func call[T any](command int, attr *T) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr))
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// NewMap makes a map of a kind (BPF_MAP_TYPE_…); the sizes are in bytes.
func NewMap(kind, keySize, valueSize, entries uint32) (fd int, err error) {
	return call(unix.BPF_MAP_CREATE, &mapAttr{kind, keySize, valueSize, entries})
}

// Put puts an element into a map.
func Put[K, V any](table int, key K, value V) error {
	_, err := call(unix.BPF_MAP_UPDATE_ELEM, &elementAttr{table: uint32(table), key: unsafe.Pointer(&key), value: unsafe.Pointer(&value)})
	return err
}

// loadTries is for a kernel that gives EAGAIN for a reason of its own: signals never come so often.
const loadTries = 1000

// Check has the kernel check a program of a kind (BPF_PROG_TYPE_…), which is to be attached somewhere (BPF_CGROUP_…, for
// example). It does so again for as long as a signal was in the way: then the verifier breaks off with EAGAIN, and Go's
// scheduler sends signals wherever it preempts.
func Check(program []Instruction, kind, where uint32) (fd int, err error) {
	program = encode(program)
	license := []byte("Apache-2.0\x00")
	attr := &programAttr{
		kind: kind, attach: where,
		count: uint32(len(program)), instructions: unsafe.Pointer(&program[0]), license: unsafe.Pointer(&license[0]),
	}
	defer runtime.KeepAlive(program)
	defer runtime.KeepAlive(license)
	for range loadTries {
		if fd, err = call(unix.BPF_PROG_LOAD, attr); !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
	return -1, err
}

// Attach gives a program to a cgroup, beside others. The cgroup keeps it.
func Attach(group, program int, where uint32) error {
	_, err := call(unix.BPF_PROG_ATTACH, &attachAttr{uint32(group), uint32(program), where, unix.BPF_F_ALLOW_MULTI})
	return err
}

// Link gives a program to what target is a descriptor of, for as long as the link is open.
func Link(program, target int, where uint32) (fd int, err error) {
	return call(unix.BPF_LINK_CREATE, &linkAttr{program: uint32(program), target: uint32(target), attach: where})
}
