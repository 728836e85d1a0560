package cgroup

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Version 2 has no file for devices: a BPF program of the group decides. It sees bpf_cgroup_dev_ctx, whose three
// words are the access and the kind, the major and the minor number.
const (
	contextAccess = 0
	contextMajor  = 4
	contextMinor  = 8
)

// defaultDevices end every list, as in every runtime: the standard devices and terminals may be used, and nodes,
// which grant nothing by themselves, be made.
var defaultDevices = []specs.LinuxDeviceCgroup{
	{Allow: true, Type: "c", Access: "m"},
	{Allow: true, Type: "b", Access: "m"},
	{Allow: true, Type: "c", Major: new(int64(1)), Minor: new(int64(3)), Access: "rwm"}, // null
	{Allow: true, Type: "c", Major: new(int64(1)), Minor: new(int64(5)), Access: "rwm"}, // zero
	{Allow: true, Type: "c", Major: new(int64(1)), Minor: new(int64(7)), Access: "rwm"}, // full
	{Allow: true, Type: "c", Major: new(int64(1)), Minor: new(int64(8)), Access: "rwm"}, // random
	{Allow: true, Type: "c", Major: new(int64(1)), Minor: new(int64(9)), Access: "rwm"}, // urandom
	{Allow: true, Type: "c", Major: new(int64(5)), Minor: new(int64(0)), Access: "rwm"}, // tty
	{Allow: true, Type: "c", Major: new(int64(5)), Minor: new(int64(1)), Access: "rwm"}, // console
	{Allow: true, Type: "c", Major: new(int64(5)), Minor: new(int64(2)), Access: "rwm"}, // ptmx
	{Allow: true, Type: "c", Major: new(int64(136)), Access: "rwm"},                     // pts
}

// AllowDevices lets the group use what the rules allow and nothing else; of the rules for one access, the last
// counts. It is called once, and not at all for a container that may use every device.
func (g *Group) AllowDevices(rules []specs.LinuxDeviceCgroup) error {
	program, err := deviceProgram(append(rules[:len(rules):len(rules)], defaultDevices...))
	if err != nil {
		return err
	}
	dir, err := g.Open()
	if err != nil {
		return fmt.Errorf("open cgroup: %w", err)
	}
	defer dir.Close()
	if err := attach(int(dir.Fd()), encode(program), unix.BPF_PROG_TYPE_CGROUP_DEVICE, unix.BPF_CGROUP_DEVICE); err != nil {
		return fmt.Errorf("rules for devices: %w", err)
	}
	return nil
}

// instruction is one of extended BPF: operation, registers, jump offset, immediate value.
type instruction struct {
	code      uint8
	registers uint8 // destination in the low half, source in the high one
	offset    int16
	imm       int32
}

// encode makes a program what the kernel reads: the registers of struct bpf_insn are bit fields, which big-endian
// compilers fill from the top.
func encode(program []instruction) []instruction {
	if binary.NativeEndian.Uint16([]byte{0, 1}) != 1 {
		return program
	}
	swapped := slices.Clone(program)
	for i := range swapped {
		swapped[i].registers = bits.RotateLeft8(swapped[i].registers, 4)
	}
	return swapped
}

// Registers of the program, and operations that package unix has no names for.
const (
	regResult, regContext, regKind, regAccess, regMajor, regMinor, regScratch = 0, 1, 3, 4, 5, 6, 7

	opMoveImm, opMove = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K, unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_X
	opAnd, opShift    = unix.BPF_ALU64 | unix.BPF_AND | unix.BPF_K, unix.BPF_ALU64 | unix.BPF_RSH | unix.BPF_K
	opLoad            = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W
	opUnless          = unix.BPF_JMP | unix.BPF_JNE | unix.BPF_K // jumps when different
	opIf              = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opExit            = unix.BPF_JMP | unix.BPF_EXIT
)

// deviceProgram tries the rules from the last to the first. Each takes from the wanted access what it allows; the
// answer is yes when nothing is left, and no when a rule denies something still wanted or at the end.
func deviceProgram(rules []specs.LinuxDeviceCgroup) ([]instruction, error) {
	code := []instruction{
		{opLoad, regAccess | regContext<<4, contextAccess, 0},
		{opMove, regKind | regAccess<<4, 0, 0},
		{opAnd, regKind, 0, 0xffff},
		{opShift, regAccess, 0, 16},
		{opLoad, regMajor | regContext<<4, contextMajor, 0},
		{opLoad, regMinor | regContext<<4, contextMinor, 0},
	}
	for i := len(rules) - 1; i >= 0; i-- {
		block, err := deviceRule(rules[i])
		if err != nil {
			return nil, fmt.Errorf("device rule %d: %w", i, err)
		}
		code = append(code, block...)
	}
	return append(code, instruction{opMoveImm, regResult, 0, 0}, instruction{opExit, 0, 0, 0}), nil
}

func deviceRule(r specs.LinuxDeviceCgroup) ([]instruction, error) {
	mask, err := accessMask(r.Access)
	if err != nil {
		return nil, err
	}
	var code []instruction
	switch r.Type {
	case "", "a":
	case "b":
		code = append(code, instruction{opUnless, regKind, 0, unix.BPF_DEVCG_DEV_BLOCK})
	case "c":
		code = append(code, instruction{opUnless, regKind, 0, unix.BPF_DEVCG_DEV_CHAR})
	default:
		return nil, fmt.Errorf("unknown type %q", r.Type)
	}
	if r.Major != nil && *r.Major >= 0 {
		code = append(code, instruction{opUnless, regMajor, 0, int32(*r.Major)})
	}
	if r.Minor != nil && *r.Minor >= 0 {
		code = append(code, instruction{opUnless, regMinor, 0, int32(*r.Minor)})
	}
	conditions := len(code)
	answer := int32(0)
	if r.Allow {
		answer = 1
		code = append(code,
			instruction{opAnd, regAccess, 0, ^mask},
			instruction{opUnless, regAccess, 2, 0})
	} else {
		code = append(code,
			instruction{opMove, regScratch | regAccess<<4, 0, 0},
			instruction{opAnd, regScratch, 0, mask},
			instruction{opIf, regScratch, 2, 0})
	}
	code = append(code, instruction{opMoveImm, regResult, 0, answer}, instruction{opExit, 0, 0, 0})
	for i := range conditions {
		code[i].offset = int16(len(code) - 1 - i)
	}
	return code, nil
}

func accessMask(access string) (int32, error) {
	if access == "" {
		access = "rwm"
	}
	var mask int32
	for _, a := range access {
		switch a {
		case 'r':
			mask |= unix.BPF_DEVCG_ACC_READ
		case 'w':
			mask |= unix.BPF_DEVCG_ACC_WRITE
		case 'm':
			mask |= unix.BPF_DEVCG_ACC_MKNOD
		default:
			return 0, fmt.Errorf("unknown access %q", strings.ToValidUTF8(access, "?"))
		}
	}
	return mask, nil
}
