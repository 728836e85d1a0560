// Package seccomp compiles the seccomp section of the OCI runtime-spec to a classic BPF program and installs it.
//
// It is called by the stage process just before it executes the container's program. The semantics are those of
// libseccomp as runc uses it, which profiles are written for: names unknown to the architecture are skipped, an
// unconditional rule of a system call overrides conditional ones, and system calls newer than every one the
// profile knows answer ENOSYS, so that programs fall back instead of failing.
package seccomp

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Filter is a compiled profile.
type Filter struct {
	program []unix.SockFilter
	flags   uintptr
}

// arch is one system call interface of the kernel.
type arch struct {
	audit uint32
	table string
	// x32 says that numbers from x32Bit up are the x32 interface, which our kernels do not have.
	x32 bool
}

const x32Bit = 0x40000000

// condition compares one argument; rule is a conjunction of them with what to answer.
type condition = specs.LinuxSeccompArg

type rule struct {
	conditions []condition
	answer     uint32
}

// Compile translates the profile. What it can't express is an error, never a weaker filter.
func Compile(p *specs.LinuxSeccomp) (*Filter, error) {
	flags, err := filterFlags(p)
	if err != nil {
		return nil, err
	}
	fallback, err := answer(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, fmt.Errorf("seccomp: defaultAction: %w", err)
	}
	arches, err := architectures(p.Architectures)
	if err != nil {
		return nil, err
	}
	var blocks [][]instruction
	for _, a := range arches {
		rules, newest, err := rulesOf(p, parseTable(a.table))
		if err != nil {
			return nil, err
		}
		b, err := tree(segments(a, rules, newest, fallback))
		if err != nil {
			return nil, err
		}
		blocks = append(blocks, b)
	}
	program, err := assemble(arches, blocks)
	if err != nil {
		return nil, err
	}
	return &Filter{program: program, flags: flags}, nil
}

func filterFlags(p *specs.LinuxSeccomp) (uintptr, error) {
	if p.ListenerPath != "" {
		return 0, fmt.Errorf("seccomp: listenerPath is not supported in a guest")
	}
	var flags uintptr
	for _, f := range p.Flags {
		switch f {
		case specs.LinuxSeccompFlagLog:
			flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case specs.LinuxSeccompFlagWaitKillableRecv: // only changes how a listener is waited for
		case "SECCOMP_FILTER_FLAG_TSYNC": // the program starts with a single thread
		default:
			return 0, fmt.Errorf("seccomp: unknown flag %q", f)
		}
	}
	return flags, nil
}

func answer(action specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	value := func(fallback uint32) uint32 {
		if errno != nil {
			return uint32(*errno) & unix.SECCOMP_RET_DATA
		}
		return fallback
	}
	switch action {
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | value(uint32(unix.EPERM)), nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | value(uint32(unix.EPERM)), nil
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	default:
		return 0, fmt.Errorf("action %q is not supported", action)
	}
}

// architectures chooses, of those the profile names, the ones this kernel can run; the native one always counts.
func architectures(names []specs.Arch) ([]arch, error) {
	known := knownArches()
	list := []arch{{audit: known[0].audit, table: known[0].table}}
	for _, n := range names {
		if !strings.HasPrefix(string(n), "SCMP_ARCH_") {
			return nil, fmt.Errorf("seccomp: unknown architecture %q", n)
		}
		for i, k := range known {
			switch {
			case k.name != n || i == 0:
			case k.x32:
				list[0].x32 = true
			default:
				list = append(list, arch{audit: k.audit, table: k.table})
			}
		}
	}
	return list, nil
}

// knownArch is what a profile may name here; the native one comes first.
type knownArch struct {
	name  specs.Arch
	audit uint32
	table string
	x32   bool
}

func parseTable(table string) map[string]uint32 {
	numbers := make(map[string]uint32, 512)
	for line := range strings.Lines(table) {
		name, number, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(number, 10, 32); err == nil {
			numbers[name] = uint32(n)
		}
	}
	return numbers
}

// rulesOf groups the profile's rules by number, and tells the highest number it names.
func rulesOf(p *specs.LinuxSeccomp, numbers map[string]uint32) (map[uint32][]rule, uint32, error) {
	rules := map[uint32][]rule{}
	newest := uint32(0)
	for _, s := range p.Syscalls {
		ans, err := answer(s.Action, s.ErrnoRet)
		if err != nil {
			return nil, 0, fmt.Errorf("seccomp: syscalls %s: %w", strings.Join(s.Names, ","), err)
		}
		alternatives, err := disjunction(s.Args)
		if err != nil {
			return nil, 0, fmt.Errorf("seccomp: syscalls %s: %w", strings.Join(s.Names, ","), err)
		}
		for _, name := range s.Names {
			nr, ok := numbers[name]
			if !ok {
				continue
			}
			newest = max(newest, nr)
			for _, conditions := range alternatives {
				rules[nr] = append(rules[nr], rule{conditions, ans})
			}
		}
	}
	return rules, newest, nil
}

// disjunction splits conditions that name one argument twice into rules of their own, any of which suffices:
// libseccomp can't join them, and runc defined it so.
func disjunction(args []condition) ([][]condition, error) {
	seen := map[uint]bool{}
	twice := false
	for _, a := range args {
		if a.Index > 5 {
			return nil, fmt.Errorf("argument index %d: there are six", a.Index)
		}
		if !slices.Contains(operators, a.Op) {
			return nil, fmt.Errorf("unknown operator %q", a.Op)
		}
		twice = twice || seen[a.Index]
		seen[a.Index] = true
	}
	if !twice {
		return [][]condition{args}, nil
	}
	var all [][]condition
	for _, a := range args {
		all = append(all, []condition{a})
	}
	return all, nil
}

var operators = []specs.LinuxSeccompOperator{
	specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
	specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual,
}

// segment is a range of system call numbers, up to the next one's first, that is answered alike.
type segment struct {
	first uint32
	rules []rule // the last one is unconditional
}

func (s segment) unconditional() bool { return len(s.rules) == 1 }

// segments covers all numbers from 0 without a gap, joining neighbours that are answered alike.
func segments(a arch, rules map[uint32][]rule, newest, fallback uint32) []segment {
	otherwise := []rule{{answer: fallback}}
	unknown := otherwise
	switch fallback & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_LOG, unix.SECCOMP_RET_TRACE:
	default:
		unknown = []rule{{answer: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)}}
	}
	var list []segment
	add := func(first uint32, r []rule) {
		if n := len(list); n > 0 && list[n-1].first == first {
			list = list[:n-1]
		}
		s := segment{first, r}
		if n := len(list); n > 0 && s.unconditional() && list[n-1].unconditional() &&
			list[n-1].rules[0].answer == r[0].answer {
			return
		}
		list = append(list, s)
	}
	numbers := make([]uint32, 0, len(rules))
	for nr := range rules {
		numbers = append(numbers, nr)
	}
	slices.SortFunc(numbers, cmp.Compare)
	add(0, otherwise)
	for _, nr := range numbers {
		add(nr, decisive(rules[nr], fallback))
		add(nr+1, otherwise)
	}
	add(newest+1, unknown)
	if a.audit == nativeAudit && hasX32 {
		if a.x32 {
			add(x32Bit, []rule{{answer: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)}})
		} else {
			add(x32Bit, []rule{{answer: unix.SECCOMP_RET_KILL_THREAD}})
		}
	}
	return list
}

// decisive ends the rules with an unconditional one; if there is one already, it alone counts.
func decisive(rules []rule, fallback uint32) []rule {
	for _, r := range rules {
		if len(r.conditions) == 0 {
			return []rule{r}
		}
	}
	return append(slices.Clone(rules), rule{answer: fallback})
}
