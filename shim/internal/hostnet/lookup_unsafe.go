package hostnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
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
	linkAttr struct{ program, target, attach, flags uint32 }
)

func bpf[T any](command int, attr *T) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr))
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// maxPassed is how many addresses a look-up leaves alone.
const maxPassed = 16

// makePassed makes the table of the addresses that a look-up leaves alone.
func makePassed() (int, error) {
	fd, err := bpf(unix.BPF_MAP_CREATE, &mapAttr{kind: unix.BPF_MAP_TYPE_HASH, keySize: 4, valueSize: 4, entries: maxPassed})
	if err != nil {
		return -1, fmt.Errorf("make a map of addresses: %w", err)
	}
	return fd, nil
}

func addPassed(table int, address [4]byte) error {
	value := uint32(1)
	element := elementAttr{table: uint32(table), key: unsafe.Pointer(&address), value: unsafe.Pointer(&value)}
	_, err := bpf(unix.BPF_MAP_UPDATE_ELEM, &element)
	return err
}

// attachLookup makes the kernel give the connections of a network namespace to a listening socket, before it looks for
// another (BPF_PROG_TYPE_SK_LOOKUP), unless they are to an address of the table. That ends when the descriptor of the link
// is closed.
func attachLookup(socket, passed, ns int) (link int, err error) {
	table, err := bpf(unix.BPF_MAP_CREATE, &mapAttr{kind: unix.BPF_MAP_TYPE_SOCKMAP, keySize: 4, valueSize: 8, entries: 1})
	if err != nil {
		return -1, fmt.Errorf("make a map of sockets: %w", err)
	}
	defer unix.Close(table)
	key, value := uint32(0), uint64(socket)
	element := elementAttr{table: uint32(table), key: unsafe.Pointer(&key), value: unsafe.Pointer(&value)}
	if _, err := bpf(unix.BPF_MAP_UPDATE_ELEM, &element); err != nil {
		return -1, fmt.Errorf("put the socket into a map: %w", err)
	}
	program, err := loadLookup(table, passed)
	if err != nil {
		return -1, fmt.Errorf("load a program for socket look-up: %w", err)
	}
	defer unix.Close(program)
	link, err = bpf(unix.BPF_LINK_CREATE, &linkAttr{program: uint32(program), target: uint32(ns), attach: unix.BPF_SK_LOOKUP})
	if err != nil {
		return -1, fmt.Errorf("attach a program for socket look-up: %w", err)
	}
	return link, nil
}

// instruction is struct bpf_insn.
type instruction struct {
	code      uint8
	registers uint8 // destination in the low half, source in the high one
	offset    int16
	imm       int32
}

// Helpers by their numbers.
const (
	helperLookup  = 1
	helperRelease = 86
	helperAssign  = 124
)

const pass = 1 // SK_PASS

// loadTries is how often a program is loaded: the verifier breaks off with EAGAIN when a signal is pending, such as those
// by which Go's scheduler preempts.
const loadTries = 1000

// localIP4 is where struct bpf_sk_lookup has the address that was dialled; zeros for one of IPv6.
const localIP4 = 40

// loadLookup loads: the socket of the map, if it is for the packet's protocol and family, is what is looked for; but for
// the addresses that are passed.
func loadLookup(table, passed int) (int, error) {
	const (
		move    = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_X
		moveImm = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K
		call    = unix.BPF_JMP | unix.BPF_CALL
	)
	program := []instruction{
		{move, 6 | 1<<4, 0, 0}, // r6 = context
		{unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W, 1 | 6<<4, localIP4, 0},
		{unix.BPF_STX | unix.BPF_MEM | unix.BPF_W, 10 | 1<<4, -4, 0}, // as the key
		{unix.BPF_LD | unix.BPF_DW | unix.BPF_IMM, 1 | unix.BPF_PSEUDO_MAP_FD<<4, 0, int32(passed)},
		{}, // the second half of it
		{move, 2 | 10<<4, 0, 0},
		{unix.BPF_ALU64 | unix.BPF_ADD | unix.BPF_K, 2, 0, -4},
		{call, 0, 0, helperLookup},
		{unix.BPF_JMP | unix.BPF_JNE | unix.BPF_K, 0, 14, 0}, // it is one: to the end
		{unix.BPF_ST | unix.BPF_MEM | unix.BPF_W, 10, -4, 0}, // key 0, on the stack
		{unix.BPF_LD | unix.BPF_DW | unix.BPF_IMM, 1 | unix.BPF_PSEUDO_MAP_FD<<4, 0, int32(table)},
		{}, // the second half of it
		{move, 2 | 10<<4, 0, 0},
		{unix.BPF_ALU64 | unix.BPF_ADD | unix.BPF_K, 2, 0, -4},
		{call, 0, 0, helperLookup},
		{unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, 0, 7, 0}, // none: to the end
		{move, 7 | 0<<4, 0, 0},                              // r7 = socket
		{move, 1 | 6<<4, 0, 0},
		{move, 2 | 7<<4, 0, 0},
		{moveImm, 3, 0, 0},
		{call, 0, 0, helperAssign}, // refuses what it is not for
		{move, 1 | 7<<4, 0, 0},
		{call, 0, 0, helperRelease},
		{moveImm, 0, 0, pass},
		{unix.BPF_JMP | unix.BPF_EXIT, 0, 0, 0},
	}
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 { // there bit fields are filled from the top
		for i := range program {
			program[i].registers = bits.RotateLeft8(program[i].registers, 4)
		}
	}
	license := []byte("Apache-2.0\x00")
	attr := &programAttr{
		kind: unix.BPF_PROG_TYPE_SK_LOOKUP, attach: unix.BPF_SK_LOOKUP,
		count: uint32(len(program)), instructions: unsafe.Pointer(&program[0]), license: unsafe.Pointer(&license[0]),
	}
	defer runtime.KeepAlive(program)
	defer runtime.KeepAlive(license)
	var err error
	for range loadTries {
		var fd int
		if fd, err = bpf(unix.BPF_PROG_LOAD, attr); !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
	return -1, err
}
