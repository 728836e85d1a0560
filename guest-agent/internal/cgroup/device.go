package cgroup

import (
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/bpf"
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
	{Allow: true, Type: "c", Major: new(int64(1)), Minor: new(int64(3)), Access: "rwm"},    // null
	{Allow: true, Type: "c", Major: new(int64(1)), Minor: new(int64(5)), Access: "rwm"},    // zero
	{Allow: true, Type: "c", Major: new(int64(1)), Minor: new(int64(7)), Access: "rwm"},    // full
	{Allow: true, Type: "c", Major: new(int64(1)), Minor: new(int64(8)), Access: "rwm"},    // random
	{Allow: true, Type: "c", Major: new(int64(1)), Minor: new(int64(9)), Access: "rwm"},    // urandom
	{Allow: true, Type: "c", Major: new(int64(5)), Minor: new(int64(0)), Access: "rwm"},    // tty
	{Allow: true, Type: "c", Major: new(int64(5)), Minor: new(int64(1)), Access: "rwm"},    // console
	{Allow: true, Type: "c", Major: new(int64(5)), Minor: new(int64(2)), Access: "rwm"},    // ptmx
	{Allow: true, Type: "c", Major: new(int64(136)), Access: "rwm"},                        // pts
	{Allow: true, Type: "c", Major: new(int64(10)), Minor: new(int64(200)), Access: "rwm"}, // tun
}

// AllowDevices lets the group use what the rules allow and nothing else; of the rules for one access, the last
// counts. It is called once.
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
	if err := attach(int(dir.Fd()), program, unix.BPF_PROG_TYPE_CGROUP_DEVICE, unix.BPF_CGROUP_DEVICE); err != nil {
		return fmt.Errorf("rules for devices: %w", err)
	}
	return nil
}

// Registers of the program.
const regResult, regContext, regKind, regAccess, regMajor, regMinor, regScratch = 0, 1, 3, 4, 5, 6, 7

// deviceProgram tries the rules from the last to the first. Each takes from the wanted access what it allows; the
// answer is yes when nothing is left, and no when a rule denies something still wanted or at the end.
func deviceProgram(rules []specs.LinuxDeviceCgroup) ([]bpf.Instruction, error) {
	code := []bpf.Instruction{
		bpf.Op(bpf.Load, regAccess|regContext<<4, contextAccess, 0),
		bpf.Op(bpf.Move, regKind|regAccess<<4, 0, 0),
		bpf.Op(bpf.And, regKind, 0, 0xffff),
		bpf.Op(bpf.Shift, regAccess, 0, 16),
		bpf.Op(bpf.Load, regMajor|regContext<<4, contextMajor, 0),
		bpf.Op(bpf.Load, regMinor|regContext<<4, contextMinor, 0),
	}
	for i := len(rules) - 1; i >= 0; i-- {
		block, err := deviceRule(rules[i])
		if err != nil {
			return nil, fmt.Errorf("device rule %d: %w", i, err)
		}
		code = append(code, block...)
	}
	return append(code, bpf.Op(bpf.MoveImm, regResult, 0, 0), bpf.Op(bpf.Exit, 0, 0, 0)), nil
}

func deviceRule(r specs.LinuxDeviceCgroup) ([]bpf.Instruction, error) {
	mask, err := accessMask(r.Access)
	if err != nil {
		return nil, err
	}
	var code []bpf.Instruction
	switch r.Type {
	case "", "a":
	case "b":
		code = append(code, bpf.Op(bpf.Unless, regKind, 0, unix.BPF_DEVCG_DEV_BLOCK))
	case "c":
		code = append(code, bpf.Op(bpf.Unless, regKind, 0, unix.BPF_DEVCG_DEV_CHAR))
	default:
		return nil, fmt.Errorf("unknown type %q", r.Type)
	}
	if r.Major != nil && *r.Major >= 0 {
		code = append(code, bpf.Op(bpf.Unless, regMajor, 0, int32(*r.Major)))
	}
	if r.Minor != nil && *r.Minor >= 0 {
		code = append(code, bpf.Op(bpf.Unless, regMinor, 0, int32(*r.Minor)))
	}
	conditions := len(code)
	answer := int32(0)
	if r.Allow {
		answer = 1
		code = append(code,
			bpf.Op(bpf.And, regAccess, 0, ^mask),
			bpf.Op(bpf.Unless, regAccess, 2, 0))
	} else {
		code = append(code,
			bpf.Op(bpf.Move, regScratch|regAccess<<4, 0, 0),
			bpf.Op(bpf.And, regScratch, 0, mask),
			bpf.Op(bpf.If, regScratch, 2, 0))
	}
	code = append(code, bpf.Op(bpf.MoveImm, regResult, 0, answer), bpf.Op(bpf.Exit, 0, 0, 0))
	for i := range conditions {
		code[i].Offset = int16(len(code) - 1 - i)
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
