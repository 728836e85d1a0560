package agent

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestExitStatusIsTrue(t *testing.T) {
	g := newGuest(t)
	for _, c := range []struct {
		args   []string
		code   uint32
		stderr string
	}{
		{[]string{"true"}, 0, ""},
		{[]string{"false"}, 1, ""},
		{[]string{"sh", "-c", "exit 42"}, 42, ""},
		{[]string{"sh", "-c", "exit 255"}, 255, ""},
		{[]string{"nosuch"}, 127, `exec: "nosuch": executable file not found in $PATH` + "\n"},
		{[]string{"/nosuch"}, 127, `exec: "/nosuch": stat /nosuch: no such file or directory` + "\n"},
		{[]string{"./nosuch"}, 127, `exec: "./nosuch": stat ./nosuch: no such file or directory` + "\n"},
		{[]string{"/etc"}, 126, `exec: "/etc": is a directory` + "\n"},
		{[]string{"/bin/data"}, 126, `exec: "/bin/data": permission denied` + "\n"},
		{[]string{"data"}, 126, `exec: "data": permission denied` + "\n"},
		{[]string{"/bin/garbage"}, 126, `exec: "/bin/garbage": exec format error` + "\n"},
		{[]string{"/bin/lost"}, 127, `exec: "/bin/lost": no such file or directory` + "\n"},
		{[]string{"sh", "-c", `sh -c 'kill -TERM $$'; exit $?`}, 143, "Terminated\n"},
		{[]string{"sh", "-c", `kill -TERM $$; exit 7`}, 7, ""}, // PID 1 is immune to its own signals
	} {
		got := g.run(g.spec(c.args...))
		if got.code != c.code || got.stdout != "" || got.stderr != c.stderr {
			t.Errorf("%q: got %+v, want %d and %q", c.args, got, c.code, c.stderr)
		}
	}
}

func TestMissingExecutableIsACreateErrorWhenAskedFor(t *testing.T) {
	g := newGuest(t)
	ask := func(r *agentv1.CreateContainerRequest) { r.MissingExecutableIsError = true }
	_, err := g.create(g.spec("nosuch"), ask)
	mustFail(t, err, `exec: "nosuch": executable file not found in $PATH`)
	_, err = g.create(g.spec("/etc"), ask)
	mustFail(t, err, `exec: "/etc": is a directory`)
	c, err := g.create(g.spec("/bin/garbage"), ask)
	if err != nil {
		t.Fatal(err)
	}
	mustFail(t, c.start(), "exec format error")
	if exit, err := c.delete(); err != nil || exit != nil {
		t.Errorf("delete of what never ran: %v, %v", exit, err)
	}
	g.nothingLeft()
}

// nothingLeft checks that the agent has neither cgroups nor mounts of containers.
func (g *guest) nothingLeft() {
	g.t.Helper()
	if g.vm {
		return // not to be seen from here
	}
	groups, err := filepath.Glob(filepath.Join(cgroupRoot(), "husk", "*", "cgroup.procs"))
	if err != nil || len(groups) > 0 {
		g.t.Errorf("cgroups are left: %v, %v", groups, err)
	}
}

func TestAFailedSetUpNamesTheThingAndLeavesNothing(t *testing.T) {
	g := newGuest(t)
	for _, c := range []struct {
		name   string
		change func(*specs.Spec)
		want   string
	}{
		{"user", func(s *specs.Spec) { s.Process.User.Username = "nobody-here" }, `user "nobody-here"`},
		{"mount source", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data", Type: "bind", Source: "/no/such/dir"})
		}, "mount /data"},
		{"mount type", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data", Type: "nofs", Source: "x"})
		}, `file system type "nofs"`},
		{"mount option", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data", Type: "tmpfs", Source: "x", Options: []string{"colour=red"}})
		}, "colour"},
		{"root", func(s *specs.Spec) { s.Root.Path = "/no/such/root" }, "/no/such/root"},
		{"cwd", func(s *specs.Spec) { s.Process.Cwd = "/etc/passwd" }, "/etc/passwd"},
		{"rlimit", func(s *specs.Spec) { s.Process.Rlimits[0].Type = "RLIMIT_X" }, "RLIMIT_X"},
		{"sysctl", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net.no.such": "1"} }, "net.no.such"},
		{"namespace", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "moon"})
		}, `"moon"`},
		{"user namespace without mappings", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		}, "uidMappings"},
		{"mappings without a user namespace", func(s *specs.Spec) {
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 100000, Size: 1}}
		}, "user namespace"},
		{"no root in a user namespace", func(s *specs.Spec) {
			userNamespace(s)
			s.Linux.UIDMappings[0].ContainerID = 5
		}, "nothing is mapped to 0"},
		{"mappings that overlap", func(s *specs.Spec) {
			userNamespace(s)
			s.Linux.UIDMappings = append(s.Linux.UIDMappings, s.Linux.UIDMappings[0])
		}, "uid_map"},
		{"time offsets without a namespace", func(s *specs.Spec) {
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1}}
		}, "timeOffsets"},
		{"an unknown clock", func(s *specs.Spec) {
			timeNamespace(s, "realtime", 1)
		}, `"realtime"`},
		{"namespace path", func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "/no/such/ns" }, "ipc namespace /no/such/ns"},
		{"namespace of another kind", func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "/proc/self/ns/uts" }, "/proc/self/ns/uts"},
		{"namespace of no container", func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "container:none" }, `"none"`},
		{"mount namespace path", func(s *specs.Spec) { s.Linux.Namespaces[3].Path = "/proc/self/ns/mnt" }, "mount namespace"},
		{"host's hook", func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/true"}}}
		}, "hooks"},
		{"hook", func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/no/such/hook"}}}
		}, "createContainer hook /no/such/hook"},
		{"environment", func(s *specs.Spec) { s.Process.Env = append(s.Process.Env, "NOVALUE") }, `"NOVALUE"`},
		{"a limit given twice", func(s *specs.Spec) {
			s.Process.Rlimits = append(s.Process.Rlimits, s.Process.Rlimits[0])
		}, "RLIMIT_NOFILE is given twice"},
		{"swap below memory", func(s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(1 << 30)), Swap: new(int64(1))}}
		}, "memory.swap"},
		{"unified", func(s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{Unified: map[string]string{"no.such": "1"}}
		}, "no.such"},
		{"device in the place of something else", func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/bin/data", Type: "c", Major: 1, Minor: 3}}
		}, "/bin/data"},
		{"file system's option on a bind", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data", Type: "bind", Source: "/", Options: []string{"rbind", "size=1m"}})
		}, `"size"`},
		{"ids of a new file system", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data", Type: "tmpfs", Options: []string{"idmap"}})
		}, "mount /data"},
		{"scheduler", func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_X"} }, "SCHED_X"},
		{"memory policy", func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: "MPOL_X"}
		}, "MPOL_X"},
		{"network devices", func(s *specs.Spec) {
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth0": {}}
		}, "netDevices"},
		{"args", func(s *specs.Spec) { s.Process.Args = nil }, "process.args"},
	} {
		s := g.spec("true")
		c.change(s)
		_, err := g.create(s)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want it to name %s", c.name, err, c.want)
		}
		g.nothingLeft()
	}
}

func TestAnUnknownStreamIsACreateError(t *testing.T) {
	g := newGuest(t)
	_, err := g.create(g.spec("true"), func(r *agentv1.CreateContainerRequest) { r.Stdio.Stdout = "unheard-of" })
	mustFail(t, err, "unheard-of")
	g.nothingLeft()
}

func TestStdoutAndStderrStayApart(t *testing.T) {
	g := newGuest(t)
	got := g.run(g.spec("sh", "-c", "echo out; echo err >&2"))
	if got != (result{0, "out\n", "err\n"}) {
		t.Errorf("got %+v", got)
	}
}

func TestStdinEndsAfterItsData(t *testing.T) {
	g := newGuest(t)
	c, err := g.create(g.spec("cat"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c.stdin, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if got := c.finish(); got != (result{0, "hello\n", ""}) {
		t.Errorf("got %+v", got)
	}
}

func TestNoStdioIsDevNull(t *testing.T) {
	g := newGuest(t)
	s := g.spec("sh", "-c", "cat && echo gone && echo gone >&2")
	text := mustJSON(t, s)
	_, err := g.client.CreateContainer(t.Context(), &agentv1.CreateContainerRequest{Id: "mute", Spec: text})
	if err != nil {
		t.Fatal(err)
	}
	r := &running{g: g, id: "mute"}
	if err := r.start(); err != nil {
		t.Fatal(err)
	}
	if code := r.wait().GetStatus(); code != 0 {
		t.Errorf("status %d", code)
	}
	if _, err := r.delete(); err != nil {
		t.Error(err)
	}
}

func TestTwentyMebibytesOfOutputArriveWhole(t *testing.T) {
	g := newGuest(t)
	const size = 20 << 20
	s := g.spec("sh", "-c", fmt.Sprintf("dd if=/dev/urandom of=/run/x bs=1M count=%d 2>/dev/null; sha256sum < /run/x >&2; cat /run/x", size>>20))
	got := g.run(s)
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(got.stdout)))
	if got.code != 0 || len(got.stdout) != size || !strings.HasPrefix(got.stderr, sum) {
		t.Errorf("got %d bytes with %s, status %d, want %s", len(got.stdout), sum, got.code, got.stderr)
	}
}

func TestAWriterWithoutReadersIsCutOff(t *testing.T) {
	g := newGuest(t)
	c, err := g.create(g.spec("head", "-c", "1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	for err == nil {
		_, err = c.stdin.Write(buf)
	}
	if code := c.wait().GetStatus(); code != 0 {
		t.Errorf("status %d", code)
	}
	if _, err := c.delete(); err != nil {
		t.Error(err)
	}
}

func TestAContainerSeesItsOwnSystem(t *testing.T) {
	g := newGuest(t)
	for _, c := range []struct{ script, want string }{
		{"hostname", "testhost\n"},
		{"echo $$", "1\n"},
		{"pwd", "/\n"},
		{"ls -d /proc/[0-9]* | head -n 1", "/proc/1\n"},
		{"stat -c %t:%T /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty", "1:3\n1:5\n1:7\n1:8\n1:9\n5:0\n"},
		{"readlink /dev/ptmx; readlink /dev/fd; readlink /dev/stdin; readlink /dev/stdout; readlink /dev/stderr",
			"pts/ptmx\n/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\n"},
		{"echo again > /dev/stdout", "again\n"},
		{"ls /proc/self/fd | wc -l", "4\n"},
		{"cat /proc/self/oom_score_adj", "0\n"},
		{"umask", "0022\n"},
		{"echo $HOME", "/root\n"},
		{"ulimit -n", "1024\n"},
		{"grep ^0: /proc/self/cgroup", "0::/\n"},
		{"ifconfig lo | grep -c UP", "1\n"},
		{"grep -E '^Cap(Eff|Bnd|Amb)|NoNewPrivs|Seccomp:' /proc/self/status",
			"CapEff:\t00000000080000eb\nCapBnd:\t00000000080000eb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t0\n"},
		{"cat /proc/keys; ls /sys/firmware", ""},
	} {
		got := g.run(g.spec("sh", "-c", c.script))
		if got.stdout != c.want || got.stderr != "" {
			t.Errorf("%s: got %q (stderr %q), want %q", c.script, got.stdout, got.stderr, c.want)
		}
	}
}

func TestReadonlyPathsRefuseWrites(t *testing.T) {
	g := newGuest(t)
	got := g.run(g.spec("sh", "-c", "echo x > /proc/sys/kernel/domainname"))
	if got.code == 0 || !strings.Contains(got.stderr, "Read-only file system") {
		t.Errorf("got %+v", got)
	}
}

func TestAReadonlyRootRefusesWritesButItsMountsDoNot(t *testing.T) {
	g := newGuest(t)
	s := g.spec("sh", "-c", "touch /x; touch /run/x && echo ok")
	s.Root.Readonly = true
	got := g.run(s)
	if got.stdout != "ok\n" || !strings.Contains(got.stderr, "Read-only file system") {
		t.Errorf("got %+v", got)
	}
}

func TestBindMounts(t *testing.T) {
	g := newGuest(t)
	src := filepath.Join(g.dir, "src")
	if err := os.MkdirAll(filepath.Join(src, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "file"), []byte("text\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := g.spec("sh", "-c", `cat /new/dir/file /etc/single; ls /etc | grep -c sub; touch /new/dir/made; touch /etc/single;
		grep ' /new/dir ' /proc/self/mountinfo | grep -c nosuid`)
	s.Mounts = append(s.Mounts,
		specs.Mount{Destination: "/new/dir", Type: "bind", Source: g.inside(src), Options: []string{"rbind", "rw", "nosuid", "rprivate"}},
		specs.Mount{Destination: "/etc/single", Type: "bind", Source: g.inside(filepath.Join(src, "file")), Options: []string{"bind", "ro"}})
	got := g.run(s)
	if got.stdout != "text\ntext\n0\n1\n" {
		t.Errorf("got %+v", got)
	}
	if !strings.Contains(got.stderr, "/etc/single: Read-only file system") || strings.Contains(got.stderr, "/new/dir") {
		t.Errorf("stderr %q", got.stderr)
	}
	if _, err := os.Stat(filepath.Join(src, "made")); err != nil {
		t.Error(err)
	}
}

func TestMountDestinationsNeverLeaveTheRoot(t *testing.T) {
	g := newGuest(t)
	outside := filepath.Join(g.dir, "outside")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{
		"absolute": outside, "relative": "../outside", "dangling": "/made/by/link", "up": "../../../../../..",
	} {
		if err := os.Symlink(target, filepath.Join(g.root, link)); err != nil {
			t.Fatal(err)
		}
	}
	s := g.spec("sh", "-c", "cat /absolute/a/x /dangling/x; ls -d /made/by/link"+outside+"/a /up/b 2>&1")
	src := filepath.Join(g.dir, "src")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "x"), []byte("x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, dst := range []string{"/absolute/a", "/relative/a", "/dangling", "/up/b"} {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: dst, Type: "bind", Source: g.inside(src), Options: []string{"bind"}})
	}
	got := g.run(s)
	if !strings.HasPrefix(got.stdout, "x\nx\n") {
		t.Errorf("got %+v", got)
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("something was made outside: %v, %v", left, err)
	}
}

func TestUsers(t *testing.T) {
	g := newGuest(t)
	for _, c := range []struct {
		name string
		user specs.User
		want string
	}{
		{"root", specs.User{}, "0 0 0 /root"},
		{"by number", specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{50, 60}}, "1000 1000 1000 50 60 /home/joe"},
		{"by name", specs.User{Username: "joe"}, "1000 1000 1000 50 /home/joe"},
		{"by number, with a name beside it", specs.User{UID: 4711, GID: 4712, Username: "joe"}, "4711 4712 4712 /"},
		{"unknown number", specs.User{UID: 4711, GID: 4712}, "4711 4712 4712 /"},
	} {
		s := g.spec("sh", "-c", "echo $(id -u) $(id -g) $(id -G) $HOME; echo again > /dev/stderr")
		s.Process.User = c.user
		got := g.run(s)
		if strings.TrimSpace(got.stdout) != c.want || got.stderr != "again\n" {
			t.Errorf("%s: got %+v, want %q", c.name, got, c.want)
		}
	}
}

func TestAnOrdinaryUserHasTheAmbientCapabilitiesOnly(t *testing.T) {
	g := newGuest(t)
	s := g.spec("grep", "CapEff", "/proc/self/status")
	s.Process.User = specs.User{UID: 1000, GID: 1000}
	if got := g.run(s); got.stdout != "CapEff:\t0000000000000000\n" {
		t.Errorf("got %+v", got)
	}
	s.Process.Capabilities.Inheritable = []string{"CAP_CHOWN"}
	s.Process.Capabilities.Ambient = []string{"CAP_CHOWN", "CAP_KILL", "CAP_OF_THE_FUTURE"}
	if got := g.run(s); got.stdout != "CapEff:\t0000000000000001\n" {
		t.Errorf("got %+v", got)
	}
}

func TestTheExecutableIsLookedUpAsTheUser(t *testing.T) {
	g := newGuest(t)
	g.file("bin/private", "#!/bin/sh\n", 0o700)
	s := g.spec("private")
	s.Process.User = specs.User{UID: 1000, GID: 1000}
	s.Process.Capabilities = nil
	if got := g.run(s); got.code != 126 || !strings.Contains(got.stderr, "permission denied") {
		t.Errorf("got %+v", got)
	}
}

func TestTheWorkingDirectoryIsMade(t *testing.T) {
	g := newGuest(t)
	s := g.spec("pwd")
	s.Process.Cwd = "/srv/made"
	if got := g.run(s); got.stdout != "/srv/made\n" {
		t.Errorf("got %+v", got)
	}
}

func TestSysctlsAreTheNamespaces(t *testing.T) {
	g := newGuest(t)
	s := g.spec("cat", "/proc/sys/net/ipv4/ip_default_ttl", "/proc/sys/kernel/msgmax")
	s.Linux.Sysctl = map[string]string{"net.ipv4.ip_default_ttl": "77", "kernel.msgmax": "4321"}
	if got := g.run(s); got.stdout != "77\n4321\n" {
		t.Errorf("got %+v", got)
	}
}

func TestATerminalHasItsSizeAndIsTheConsole(t *testing.T) {
	g := newGuest(t)
	s := g.spec("sh", "-c", "stty size; tty; test /dev/console -ef /dev/pts/0 && echo same; echo err >&2; exit 3")
	s.Process.Terminal = true
	got := g.run(s)
	if got.code != 3 || got.stdout != "45 123\r\n/dev/pts/0\r\nsame\r\nerr\r\n" {
		t.Errorf("got %+v", got)
	}
}

func TestATerminalGoesOnWhenNobodyHasItOpen(t *testing.T) {
	g := newGuest(t)
	s := g.spec("sh", "-c", "exec </dev/null >/dev/null 2>&1; sleep 0.3; echo first >/dev/console; sleep 0.3; echo last >/dev/console; exit 3")
	s.Process.Terminal = true
	if got := g.run(s); got.code != 3 || got.stdout != "first\r\nlast\r\n" {
		t.Errorf("got %+v", got)
	}
}

func TestATerminalIsResizedAndTyped(t *testing.T) {
	g := newGuest(t)
	s := g.spec("sh", "-c", "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done")
	s.Process.Terminal = true
	c, err := g.create(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	c.line("ready\r\n")
	_, err = g.client.ResizePty(t.Context(), &agentv1.ResizePtyRequest{ContainerId: c.id, Width: 90, Height: 33})
	if err != nil {
		t.Fatal(err)
	}
	c.line("33 90\r\n")
	if code := c.wait().GetStatus(); code != 0 {
		t.Errorf("status %d", code)
	}
	if _, err := c.delete(); err != nil {
		t.Error(err)
	}

	s = g.spec("cat")
	s.Process.Terminal = true
	if c, err = g.create(s); err != nil {
		t.Fatal(err)
	}
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c.stdin, "typed\n\x04"); err != nil {
		t.Fatal(err)
	}
	if got := c.outcome(); got.code != 0 || got.stdout != "typed\r\ntyped\r\n" {
		t.Errorf("got %+v", got)
	}
	if _, err := c.delete(); err != nil {
		t.Error(err)
	}
}

func TestSeccompFiltersTheProgram(t *testing.T) {
	g := newGuest(t)
	for _, privileged := range []bool{false, true} {
		s := g.spec("sh", "-c", "mkdir /tmp/x; grep Seccomp: /proc/self/status")
		s.Process.NoNewPrivileges = !privileged
		s.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow,
			Syscalls:      []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: new(uint(unix.EXDEV))}},
		}
		got := g.run(s)
		if got.stdout != "Seccomp:\t2\n" || !strings.Contains(got.stderr, "nvalid cross-device link") {
			t.Errorf("without no_new_privs %v: got %+v", privileged, got)
		}
	}
}

func TestOnlyAllowedDevicesCanBeUsed(t *testing.T) {
	g := newGuest(t)
	s := g.spec("sh", "-c", `head -c 1 /dev/zero | wc -c; for d in fuse other; do head -c 0 /dev/$d && echo $d; done; head -c 0 /dev/tun
		echo x > /dev/null && echo written; : <> /dev/ptmx && echo terminal; true`)
	s.Linux.Devices = []specs.LinuxDevice{
		{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229},
		{Path: "/dev/other", Type: "c", Major: 1, Minor: 5},
		{Path: "/dev/tun", Type: "c", Major: 10, Minor: 200}, // of which the kernel may have no driver
	}
	for _, r := range []*specs.LinuxResources{nil, {}, {Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}} {
		s.Linux.Resources = r
		got := g.run(s)
		if got.stdout != "1\nother\nwritten\nterminal\n" || !strings.Contains(got.stderr, "/dev/fuse: Operation not permitted") ||
			strings.Contains(got.stderr, "/dev/tun: Operation not permitted") {
			t.Errorf("rules %+v: got %+v", r, got)
		}
	}
	s.Linux.Resources.Devices = append(s.Linux.Resources.Devices,
		specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: new(int64(10)), Minor: new(int64(229)), Access: "r"},
		specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: new(int64(10)), Minor: new(int64(229)), Access: "w"})
	if got := g.run(s); got.stdout != "1\nfuse\nother\nwritten\nterminal\n" {
		t.Errorf("with fuse allowed: got %+v", got)
	}
	s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	if got := g.run(s); got.stdout != "1\nfuse\nother\nwritten\nterminal\n" {
		t.Errorf("with everything allowed: got %+v", got)
	}
}

func TestCgroupsBeginAtTheContainersOwn(t *testing.T) {
	g := newGuest(t)
	s := g.spec("sh", "-c", "cat /sys/fs/cgroup/cgroup.procs | head -n 1; ls -d /sys/fs/cgroup/husk 2>/dev/null; mkdir /sys/fs/cgroup/x")
	s.Mounts = append(s.Mounts, specs.Mount{
		Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
		Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"},
	})
	for _, own := range []bool{true, false} {
		if !own {
			s.Linux.Namespaces = s.Linux.Namespaces[:5]
		}
		got := g.run(s)
		if got.stdout != "1\n" || !strings.Contains(got.stderr, "Read-only file system") {
			t.Errorf("cgroup namespace %v: got %+v", own, got)
		}
	}
}

// TestTheGuestsNullDeviceIsNotTheContainers whose root could change it for everyone, through a descriptor or a mask.
func TestTheGuestsNullDeviceIsNotTheContainers(t *testing.T) {
	g := newGuest(t)
	if g.vm {
		t.Skip("the guest's devices are out of reach")
	}
	mode := func() os.FileMode {
		t.Helper()
		st, err := os.Stat("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		return st.Mode()
	}
	before := mode()
	t.Cleanup(func() { _ = os.Chmod("/dev/null", before) })
	noInput := func(s *agentv1.Stdio) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.streams[s.Stdin] <- nil
		s.Stdin = ""
	}
	check := func(name string, r *running, err error) {
		t.Helper()
		if err == nil {
			err = r.start()
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := r.outcome(); got.stdout != "0\ndone\n" {
			t.Errorf("%s: %+v", name, got)
		}
		if after := mode(); after != before {
			t.Errorf("%s: the guest's is %v, was %v", name, after, before)
		}
		if _, err := r.delete(); err != nil {
			t.Error(err)
		}
	}
	s := g.spec("sh", "-c", "cat | wc -c; chmod 1666 /dev/stdin && echo done")
	r, err := g.create(s, func(r *agentv1.CreateContainerRequest) { noInput(r.Stdio) })
	check("init", r, err)
	c := g.sleeper()
	e, err := c.exec(s.Process, func(r *agentv1.ExecProcessRequest) { noInput(r.Stdio) })
	check("exec", e, err)
	c.end()
	g.file("etc/hidden", "text", 0o666)
	masked := g.spec("sh", "-c", "echo x > /etc/hidden; wc -c < /etc/hidden; chmod 1666 /etc/hidden; echo done")
	masked.Linux.MaskedPaths = []string{"/etc/hidden"}
	r, err = g.create(masked, func(r *agentv1.CreateContainerRequest) { noInput(r.Stdio) })
	check("mask", r, err)
}
