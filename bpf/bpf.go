// Package bpf gives small programs of extended BPF to the kernel, and the maps that they work with (Linux, bpf(2)).
package bpf

import (
	"encoding/binary"
	"math/bits"
	"slices"

	"golang.org/x/sys/unix"
)

// Instruction is struct bpf_insn, with its registers the same way on every machine.
type Instruction struct {
	Code      uint8
	Registers uint8 // destination in the low half, source in the high one
	Offset    int16
	Immediate int32
}

// Op makes an instruction.
func Op(code, registers uint8, offset int16, immediate int32) Instruction {
	return Instruction{Code: code, Registers: registers, Offset: offset, Immediate: immediate}
}

// LoadMap makes a register that of a map. It takes a second instruction, which is empty.
func LoadMap(register uint8, table int) Instruction {
	return Op(unix.BPF_LD|unix.BPF_DW|unix.BPF_IMM, register|unix.BPF_PSEUDO_MAP_FD<<4, 0, int32(table))
}

// Operations.
const (
	Move    = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_X
	MoveImm = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K
	Add     = unix.BPF_ALU64 | unix.BPF_ADD | unix.BPF_K
	And     = unix.BPF_ALU64 | unix.BPF_AND | unix.BPF_K
	Shift   = unix.BPF_ALU64 | unix.BPF_RSH | unix.BPF_K // to the right
	Load    = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W
	Store   = unix.BPF_STX | unix.BPF_MEM | unix.BPF_W
	If      = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	Unless  = unix.BPF_JMP | unix.BPF_JNE | unix.BPF_K
	Jump    = unix.BPF_JMP | unix.BPF_JA
	Call    = unix.BPF_JMP | unix.BPF_CALL // the immediate is a helper's number
	Exit    = unix.BPF_JMP | unix.BPF_EXIT

	StoreImm     = unix.BPF_ST | unix.BPF_MEM | unix.BPF_W
	StoreImmWide = unix.BPF_ST | unix.BPF_MEM | unix.BPF_DW
)

// encode makes a program what the kernel reads: the registers of struct bpf_insn are bit fields, which big-endian
// compilers fill from the top.
func encode(program []Instruction) []Instruction {
	if binary.NativeEndian.Uint16([]byte{0, 1}) != 1 {
		return program
	}
	swapped := slices.Clone(program)
	for i := range swapped {
		swapped[i].Registers = bits.RotateLeft8(swapped[i].Registers, 4)
	}
	return swapped
}
