package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/huskvm/husk/test/rig"
)

func TestSeccompDoesWhatItIsTold(t *testing.T) {
	eacces := uint(13)
	call := func(action specs.LinuxSeccompAction, errno *uint, args []specs.LinuxSeccompArg, names ...string) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: names, Action: action, ErrnoRet: errno, Args: args}
	}
	s := script(t, `mkdir /tmp/d 2>&1 | grep -o 'Permission denied'; (exec chmod 1 /tmp) ; echo $?; (exec ionice -c 2 -n 3 true) 2>/dev/null; echo $?
		(exec ln -s a /tmp/l); echo $?; (exec renice 1 $$) 2>/dev/null; echo $?; hostname x 2>&1 | grep -o 'not implemented'; grep -E '^Seccomp:' /proc/self/status | tr -d '\t'`)
	s.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32},
		Flags:         []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow},
		Syscalls: []specs.LinuxSyscall{
			call(specs.ActErrno, &eacces, nil, "mkdir", "mkdirat", "a_call_of_the_future"),
			call(specs.ActKillProcess, nil, nil, "chmod", "fchmod", "fchmodat"),
			call(specs.ActTrap, nil, []specs.LinuxSeccompArg{{Index: 0, Value: 1, Op: specs.OpEqualTo}}, "ioprio_set"),
			call(specs.ActLog, nil, nil, "symlink", "symlinkat"),
			call(specs.ActKillThread, nil, nil, "setpriority"),
			call(specs.ActTrace, nil, nil, "sethostname"), // with nobody who traces: ENOSYS
		},
	}
	lines(t, s, "Permission denied", "159", "159", "0", "159", "not implemented", "Seccomp:2")
}

func TestWhatSeccompCannotDoIsACreateError(t *testing.T) {
	s := script(t, "true")
	s.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActNotify}},
	}
	refused(t, bare(t, rig.Runtime, s), "SCMP_ACT_NOTIFY")
}

// What a profile does not name gets its default, with the profile's own errno.
func TestASeccompDefaultHasItsErrno(t *testing.T) {
	exdev := uint(18)
	s := script(t, `mkdir /tmp/d 2>&1 | grep -o 'Invalid cross-device link'; echo on`)
	p, err := seccomp.GetDefaultProfile(s)
	if err != nil {
		t.Fatal(err)
	}
	p.DefaultErrnoRet = &exdev
	for i, call := range p.Syscalls {
		p.Syscalls[i].Names = slices.DeleteFunc(call.Names, func(name string) bool { return name == "mkdir" || name == "mkdirat" })
	}
	s.Linux.Seccomp = p
	lines(t, s, "Invalid cross-device link", "on")
}

// The engines' own profiles, as they are, do what they do under runc: the second half of the commands is what a filter
// must refuse.
func TestTheEnginesSeccompProfilesDoAsUnderRunc(t *testing.T) {
	const look = `grep -E '^Seccomp:' /proc/self/status
		for c in 'ls /' 'ps' 'linux32 uname -m' 'ionice -c 2 -n 3 true' 'chroot / true' 'tar -cf /dev/null /etc' 'timeout 5 true' \
			'unshare -U true' 'unshare -u true' 'insmod /bin/busybox' 'mount -t tmpfs t /mnt' 'date -s 2001-01-01' 'swapoff /x' 'nsenter -t 1 -m true'
		do said=$($c 2>&1 >/dev/null); echo "$c: $? $said"; done`
	if !*oci {
		t.Skip("-oci=false: the fields of the specification are tested elsewhere")
	}
	engines := map[string]func(t *testing.T, runtime, privilege string) rig.Result{
		"containerd": func(t *testing.T, runtime, privilege string) rig.Result {
			needFlag(t, "--seccomp")
			args := []string{"run", "--rm", "--runtime", runtime, "--seccomp"}
			if privilege != "" {
				args = append(args, "--cap-add", privilege)
			}
			res, err := rig.Exec(shared.Ctr(testContext(t), append(args, rig.Image, newID(t), "sh", "-c", look)...))
			if err != nil {
				t.Fatal(err)
			}
			return res
		},
		"docker": func(t *testing.T, runtime, privilege string) rig.Result {
			s := script(t, look)
			if c := s.Process.Capabilities; privilege != "" {
				c.Bounding, c.Permitted, c.Effective = append(c.Bounding, privilege), append(c.Permitted, privilege), append(c.Effective, privilege)
			}
			var err error
			if s.Linux.Seccomp, err = seccomp.GetDefaultProfile(s); err != nil {
				t.Fatal(err)
			}
			return runSpecOn(t, runtime, s)
		},
	}
	for engine, run := range engines {
		for privilege, sign := range map[string]string{
			"": "unshare -U true: 1 unshare: unshare(0x10000000): Operation not permitted\n", "CAP_SYS_ADMIN": "unshare -U true: 0 \n",
		} {
			t.Run(strings.TrimSpace(engine+" "+privilege), func(t *testing.T) {
				under, want := run(t, rig.Runtime, privilege), run(t, runc, privilege)
				if want.Status != 0 {
					t.Fatalf("runc: %+v", want)
				}
				if diff := cmp.Diff(want.Stdout, under.Stdout); diff != "" {
					t.Errorf("runc -, husk +:\n%s", diff)
				}
				if !strings.Contains(under.Stdout, sign) {
					t.Errorf("no %q in %s", sign, under.Stdout)
				}
			})
		}
	}
}
