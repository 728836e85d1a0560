package seccomp

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data. Its fields are in the kernel's byte order.
const (
	offsetNumber = 0
	offsetArch   = 4
	offsetArgs   = 16
)

// auditLittleEndian is __AUDIT_ARCH_LE of <linux/audit.h>. A companion has its native architecture's byte order.
const (
	auditLittleEndian = 0x40000000
	bigEndian         = nativeAudit&auditLittleEndian == 0
)

// maxInstructions is BPF_MAXINSNS.
const maxInstructions = 4096

// instruction may jump to the end of the rule it belongs to, before it is known where that is.
type instruction struct {
	unix.SockFilter
	trueFails, falseFails bool
}

func load(offset uint32) instruction {
	return instruction{SockFilter: unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}}
}

func and(k uint32) instruction {
	return instruction{SockFilter: unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: k}}
}

func jump(op uint16, k uint32, jt, jf uint8) instruction {
	return instruction{SockFilter: unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, K: k, Jt: jt, Jf: jf}}
}

func (i instruction) failTrue() instruction  { i.trueFails = true; return i }
func (i instruction) failFalse() instruction { i.falseFails = true; return i }

func skip(n int) instruction {
	return instruction{SockFilter: unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(n)}}
}

func ret(k uint32) instruction {
	return instruction{SockFilter: unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k}}
}

// tree is a binary search over the segments: a dozen comparisons for any number, where a chain would take
// hundreds on every system call of the container.
func tree(s []segment) ([]instruction, error) {
	if len(s) == 1 {
		return leaf(s[0].rules)
	}
	mid := len(s) / 2
	left, err := tree(s[:mid])
	if err != nil {
		return nil, err
	}
	right, err := tree(s[mid:])
	if err != nil {
		return nil, err
	}
	var code []instruction
	if len(left) <= 255 {
		code = append(code, jump(unix.BPF_JGE, s[mid].first, uint8(len(left)), 0))
	} else {
		code = append(code, jump(unix.BPF_JGE, s[mid].first, 0, 1), skip(len(left)))
	}
	return append(append(code, left...), right...), nil
}

func leaf(rules []rule) ([]instruction, error) {
	var code []instruction
	for _, r := range rules {
		c := body(r)
		for i := range c {
			distance := len(c) - 1 - i
			if !c[i].trueFails && !c[i].falseFails {
				continue
			}
			if distance > 255 {
				return nil, fmt.Errorf("seccomp: a rule has too many conditions")
			}
			if c[i].trueFails {
				c[i].Jt = uint8(distance)
			}
			if c[i].falseFails {
				c[i].Jf = uint8(distance)
			}
		}
		code = append(code, c...)
	}
	return code, nil
}

// body tests the conditions one after the other and answers when all hold; failing jumps lead behind it.
func body(r rule) []instruction {
	var code []instruction
	for _, c := range r.conditions {
		code = append(code, test(c)...)
	}
	return append(code, ret(r.answer))
}

// test compares a 64-bit argument in two halves: classic BPF knows 32 bits only.
func test(c condition) []instruction {
	at := uint32(offsetArgs + 8*c.Index)
	hi, lo := uint32(c.Value>>32), uint32(c.Value)
	loadHi, loadLo := load(at+4), load(at)
	if bigEndian {
		loadHi, loadLo = loadLo, loadHi
	}
	switch c.Op {
	case specs.OpEqualTo:
		return []instruction{
			loadHi, jump(unix.BPF_JEQ, hi, 0, 0).failFalse(),
			loadLo, jump(unix.BPF_JEQ, lo, 0, 0).failFalse(),
		}
	case specs.OpNotEqual:
		return []instruction{
			loadHi, jump(unix.BPF_JEQ, hi, 0, 2),
			loadLo, jump(unix.BPF_JEQ, lo, 0, 0).failTrue(),
		}
	case specs.OpMaskedEqual: // value is the mask, valueTwo what must be left
		want := c.ValueTwo & c.Value
		return []instruction{
			loadHi, and(hi), jump(unix.BPF_JEQ, uint32(want>>32), 0, 0).failFalse(),
			loadLo, and(lo), jump(unix.BPF_JEQ, uint32(want), 0, 0).failFalse(),
		}
	case specs.OpGreaterThan, specs.OpGreaterEqual:
		op := uint16(unix.BPF_JGT)
		if c.Op == specs.OpGreaterEqual {
			op = unix.BPF_JGE
		}
		return []instruction{
			loadHi, jump(unix.BPF_JGT, hi, 3, 0), jump(unix.BPF_JEQ, hi, 0, 0).failFalse(),
			loadLo, jump(op, lo, 0, 0).failFalse(),
		}
	default: // OpLessThan, OpLessEqual: not what the opposite comparison finds
		op := uint16(unix.BPF_JGE)
		if c.Op == specs.OpLessEqual {
			op = unix.BPF_JGT
		}
		return []instruction{
			loadHi, jump(unix.BPF_JGT, hi, 0, 0).failTrue(), jump(unix.BPF_JEQ, hi, 0, 2),
			loadLo, jump(op, lo, 0, 0).failTrue(),
		}
	}
}

// assemble puts the choice of the architecture in front of each one's tree. An architecture that is not listed
// ends the thread, as libseccomp does: its numbers would be read as others.
func assemble(arches []arch, blocks [][]instruction) ([]unix.SockFilter, error) {
	code := []instruction{load(offsetArch)}
	for i, a := range arches {
		b := blocks[i]
		code = append(code, jump(unix.BPF_JEQ, a.audit, 1, 0), skip(len(b)+1), load(offsetNumber))
		code = append(code, b...)
	}
	code = append(code, ret(unix.SECCOMP_RET_KILL_THREAD))
	if len(code) > maxInstructions {
		return nil, fmt.Errorf("seccomp: the profile needs %d instructions, the kernel takes %d", len(code), maxInstructions)
	}
	program := make([]unix.SockFilter, len(code))
	for i, c := range code {
		program[i] = c.SockFilter
	}
	return program, nil
}
