package seccomp

import (
	"encoding/binary"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// evaluate runs a program as the kernel would, on the instructions this package emits.
func evaluate(t *testing.T, program []unix.SockFilter, audit, nr uint32, args ...uint64) uint32 {
	t.Helper()
	data := make([]byte, 64)
	binary.NativeEndian.PutUint32(data[offsetNumber:], nr)
	binary.NativeEndian.PutUint32(data[offsetArch:], audit)
	for i, a := range args {
		binary.NativeEndian.PutUint64(data[offsetArgs+8*i:], a)
	}
	var acc uint32
	for pc := 0; pc < len(program); pc++ {
		i := program[pc]
		branch := func(taken bool) {
			if taken {
				pc += int(i.Jt)
			} else {
				pc += int(i.Jf)
			}
		}
		switch i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = binary.NativeEndian.Uint32(data[i.K:])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= i.K
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(i.K)
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			branch(acc == i.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			branch(acc >= i.K)
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			branch(acc > i.K)
		case unix.BPF_RET | unix.BPF_K:
			return i.K
		default:
			t.Fatalf("instruction %d: unknown code %#x", pc, i.Code)
		}
	}
	t.Fatal("the program has no end")
	return 0
}

func compile(t *testing.T, p *specs.LinuxSeccomp) []unix.SockFilter {
	t.Helper()
	f, err := Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	return f.program
}

func TestEveryOperatorComparesAllSixtyFourBits(t *testing.T) {
	const v = 0x1_0000_0002
	near := []uint64{0, 1, 2, 3, v - 1, v, v + 1, 0x2_0000_0000, 0x2_0000_0001, 1 << 63}
	for _, c := range []struct {
		op    specs.LinuxSeccompOperator
		holds func(a uint64) bool
	}{
		{specs.OpEqualTo, func(a uint64) bool { return a == v }},
		{specs.OpNotEqual, func(a uint64) bool { return a != v }},
		{specs.OpLessThan, func(a uint64) bool { return a < v }},
		{specs.OpLessEqual, func(a uint64) bool { return a <= v }},
		{specs.OpGreaterThan, func(a uint64) bool { return a > v }},
		{specs.OpGreaterEqual, func(a uint64) bool { return a >= v }},
		{specs.OpMaskedEqual, func(a uint64) bool { return a&v == 2 }},
	} {
		p := compile(t, &specs.LinuxSeccomp{
			DefaultAction: specs.ActErrno,
			Syscalls: []specs.LinuxSyscall{{
				Names: []string{"read"}, Action: specs.ActAllow,
				Args: []specs.LinuxSeccompArg{{Index: 1, Value: v, ValueTwo: 2, Op: c.op}},
			}},
		})
		for _, a := range near {
			want := uint32(unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM))
			if c.holds(a) {
				want = unix.SECCOMP_RET_ALLOW
			}
			if got := evaluate(t, p, nativeAudit, unix.SYS_READ, 9, a); got != want {
				t.Errorf("%s with %#x: got %#x, want %#x", c.op, a, got, want)
			}
		}
	}
}

func TestConditionsOfOneRuleMustAllHold(t *testing.T) {
	p := compile(t, &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno,
		Syscalls: []specs.LinuxSyscall{{
			Names: []string{"socket"}, Action: specs.ActAllow,
			Args: []specs.LinuxSeccompArg{
				{Index: 0, Value: 1, Op: specs.OpEqualTo}, {Index: 1, Value: 5, Op: specs.OpGreaterEqual},
			},
		}},
	})
	for _, c := range []struct {
		a, b  uint64
		allow bool
	}{{1, 5, true}, {1, 4, false}, {2, 5, false}} {
		got := evaluate(t, p, nativeAudit, unix.SYS_SOCKET, c.a, c.b) == unix.SECCOMP_RET_ALLOW
		if got != c.allow {
			t.Errorf("socket(%d, %d): allowed %v, want %v", c.a, c.b, got, c.allow)
		}
	}
}

func TestConditionsOnOneArgumentAreAlternatives(t *testing.T) {
	p := compile(t, &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno,
		Syscalls: []specs.LinuxSyscall{{
			Names: []string{"personality"}, Action: specs.ActAllow,
			Args: []specs.LinuxSeccompArg{
				{Index: 0, Value: 0, Op: specs.OpEqualTo}, {Index: 0, Value: 8, Op: specs.OpEqualTo},
			},
		}},
	})
	for arg, allow := range map[uint64]bool{0: true, 8: true, 4: false} {
		if got := evaluate(t, p, nativeAudit, unix.SYS_PERSONALITY, arg) == unix.SECCOMP_RET_ALLOW; got != allow {
			t.Errorf("personality(%d): allowed %v, want %v", arg, got, allow)
		}
	}
}

func TestEverySystemCallGetsItsOwnAnswer(t *testing.T) {
	numbers := parseTable(nativeTable)
	profile := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
	want := map[uint32]uint32{}
	i := 0
	for name, nr := range numbers {
		// Scattered answers keep neighbours from being joined: the tree becomes as large as it can.
		errno := uint(1 + i%100)
		i++
		profile.Syscalls = append(profile.Syscalls, specs.LinuxSyscall{
			Names: []string{name}, Action: specs.ActErrno, ErrnoRet: &errno,
		})
		want[nr] = unix.SECCOMP_RET_ERRNO | uint32(errno)
	}
	p := compile(t, profile)
	for nr, w := range want {
		if got := evaluate(t, p, nativeAudit, nr); got != w {
			t.Errorf("number %d: got %#x, want %#x", nr, got, w)
		}
	}
}

func TestSystemCallsNewerThanTheProfileAnswerENOSYS(t *testing.T) {
	p := compile(t, &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno,
		Syscalls:      []specs.LinuxSyscall{{Names: []string{"clone3"}, Action: specs.ActAllow}},
	})
	if got := evaluate(t, p, nativeAudit, unix.SYS_CLONE3); got != unix.SECCOMP_RET_ALLOW {
		t.Errorf("clone3: got %#x", got)
	}
	if got := evaluate(t, p, nativeAudit, unix.SYS_CLONE3-1); got != unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM) {
		t.Errorf("the one before: got %#x", got)
	}
	if got := evaluate(t, p, nativeAudit, unix.SYS_CLONE3+5); got != unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS) {
		t.Errorf("a newer one: got %#x", got)
	}
}

// The number of exit_group, which has never changed, and tells the tables apart.
func TestTablesAreThoseOfTheirArchitecture(t *testing.T) {
	exitGroup := map[specs.Arch]uint32{
		specs.ArchX86_64: 231, specs.ArchX86: 252, specs.ArchAARCH64: 94, specs.ArchARM: 248,
		specs.ArchS390X: 248, specs.ArchS390: 248, specs.ArchPPC64LE: 234, specs.ArchRISCV64: 94,
	}
	for _, k := range knownArches() {
		if k.x32 {
			continue
		}
		numbers := parseTable(k.table)
		if got := numbers["exit_group"]; got != exitGroup[k.name] {
			t.Errorf("%s: exit_group is %d, want %d", k.name, got, exitGroup[k.name])
		}
		if len(numbers) < 300 {
			t.Errorf("%s: only %d system calls", k.name, len(numbers))
		}
		// 31-bit programs of s390 have what its 64-bit ones never had, as every 32-bit architecture does.
		if _, has := numbers["fcntl64"]; has != (k.audit&audit64Bit == 0) {
			t.Errorf("%s: has fcntl64: %v", k.name, has)
		}
	}
}

// audit64Bit is __AUDIT_ARCH_64BIT of <linux/audit.h>.
const audit64Bit = 0x80000000

func TestACompanionArchitectureIsFilteredOnlyIfNamed(t *testing.T) {
	for _, k := range knownArches()[1:] {
		if k.x32 {
			continue
		}
		nr := parseTable(k.table)["exit_group"]
		p := &specs.LinuxSeccomp{
			DefaultAction: specs.ActErrno,
			Syscalls:      []specs.LinuxSyscall{{Names: []string{"exit_group"}, Action: specs.ActAllow}},
		}
		if got := evaluate(t, compile(t, p), k.audit, nr); got != unix.SECCOMP_RET_KILL_THREAD {
			t.Errorf("%s, not named: got %#x", k.name, got)
		}
		p.Architectures = []specs.Arch{k.name}
		if got := evaluate(t, compile(t, p), k.audit, nr); got != unix.SECCOMP_RET_ALLOW {
			t.Errorf("%s, named: got %#x", k.name, got)
		}
		if got := evaluate(t, compile(t, p), k.audit, nr-1); got != unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM) {
			t.Errorf("%s, another call: got %#x", k.name, got)
		}
	}
}

func TestAForeignArchitectureIsKilled(t *testing.T) {
	p := compile(t, &specs.LinuxSeccomp{DefaultAction: specs.ActAllow})
	if got := evaluate(t, p, 0x1234, unix.SYS_READ); got != unix.SECCOMP_RET_KILL_THREAD {
		t.Errorf("got %#x", got)
	}
}

func TestWhatCannotBeExpressedIsAnError(t *testing.T) {
	for name, p := range map[string]*specs.LinuxSeccomp{
		"notify":        {DefaultAction: specs.ActNotify},
		"listener":      {DefaultAction: specs.ActAllow, ListenerPath: "/run/x"},
		"flag":          {DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"X"}},
		"architecture":  {DefaultAction: specs.ActAllow, Architectures: []specs.Arch{"x"}},
		"no action":     {},
		"index too big": {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}}},
	} {
		if _, err := Compile(p); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
