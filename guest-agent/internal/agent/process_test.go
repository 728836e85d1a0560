package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// fields are the process's, each with what shows in it. They hold for an init as for an exec.
func fields(g *guest) []struct {
	name, script, want string
	change             func(*specs.Process)
} {
	type field = struct {
		name, script, want string
		change             func(*specs.Process)
	}
	return []field{
		{"a variable given twice", "env | grep ^A=", "A=2\n", func(p *specs.Process) { p.Env = append(p.Env, "A=1", "A=2") }},
		{"the last PATH finds the program", "echo $PATH", "/bin\n", func(p *specs.Process) { p.Env = []string{"PATH=/none", "PATH=/bin"} }},
		{"an empty HOME", "echo $HOME", "/root\n", func(p *specs.Process) { p.Env = append(p.Env, "HOME=") }},
		{"a HOME of its own", "echo $HOME", "/x\n", func(p *specs.Process) { p.Env = append(p.Env, "HOME=/x") }},
		{"umask", "umask", "0077\n", func(p *specs.Process) { p.User.Umask = new(uint32(0o77)) }},
		{"oomScoreAdj", "cat /proc/self/oom_score_adj", "321\n", func(p *specs.Process) { p.OOMScoreAdj = new(321) }},
		{"rlimits", "ulimit -n; ulimit -H -n; ulimit -c", "64\n128\n0\n", func(p *specs.Process) {
			p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 64, Hard: 128}, {Type: "RLIMIT_CORE"}}
		}},
		{"noNewPrivileges", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t0\n", func(p *specs.Process) { p.NoNewPrivileges = false }},
		{"capabilities", "grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | cut -f 2",
			"0000000000000001\n0000000000000003\n0000000000000001\n0000000000000003\n0000000000000001\n", func(p *specs.Process) {
				one, two := []string{"CAP_CHOWN"}, []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE"}
				p.User = specs.User{UID: 1000, GID: 1000}
				p.Capabilities = &specs.LinuxCapabilities{Bounding: two, Permitted: two, Effective: one, Inheritable: one, Ambient: one}
				p.Args = []string{"grep", "-E", "^Cap", "/proc/self/status"}
			}},
		{"scheduler", "cut -d ' ' -f 19,41 /proc/self/stat", "7 3\n", func(p *specs.Process) {
			p.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 7}
		}},
		{"ioPriority", "ionice -p $$", "best-effort: prio 6\n", func(p *specs.Process) {
			p.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
		}},
		{"groups", "id -G", "5 7 8\n", func(p *specs.Process) { p.User = specs.User{UID: 4, GID: 5, AdditionalGids: []uint32{7, 8}} }},
		{"security modules that are not there", "echo ok", "ok\n", func(p *specs.Process) {
			p.ApparmorProfile, p.SelinuxLabel = "none", "system_u:object_r:none_t:s0"
		}},
	}
}

func TestEveryFieldOfTheProcess(t *testing.T) {
	g := newGuest(t)
	c := g.sleeper()
	for _, f := range fields(g) {
		s := g.spec("sh", "-c", f.script)
		f.change(s.Process)
		want := f.want
		if f.name == "capabilities" {
			// An execve leaves an ordinary user the ambient ones.
			want = "CapInh:\t0000000000000001\nCapPrm:\t0000000000000001\nCapEff:\t0000000000000001\nCapBnd:\t0000000000000003\nCapAmb:\t0000000000000001\n"
		}
		if got := g.run(s); got.stdout != want || got.stderr != "" {
			t.Errorf("%s: got %+v, want %q", f.name, got, want)
		}
		p := g.spec("sh", "-c", f.script).Process
		f.change(p)
		e, err := c.exec(p)
		if err != nil {
			t.Errorf("%s: exec: %v", f.name, err)
			continue
		}
		if got := e.finish(); got.stdout != want || got.stderr != "" {
			t.Errorf("%s: exec: got %+v, want %q", f.name, got, want)
		}
	}
	c.end()
}

func TestTheConsolesSizeIsTheSpecsUnlessTheHostHasOne(t *testing.T) {
	g := newGuest(t)
	s := g.spec("stty", "size")
	s.Process.Terminal = true
	s.Process.ConsoleSize = &specs.Box{Width: 77, Height: 22}
	c, err := g.create(s, func(r *agentv1.CreateContainerRequest) { r.Stdio.Width, r.Stdio.Height = 0, 0 })
	if err != nil {
		t.Fatal(err)
	}
	if got := c.finish(); got.stdout != "22 77\r\n" {
		t.Errorf("got %+v", got)
	}
	if got := g.run(s); got.stdout != "45 123\r\n" {
		t.Errorf("with one of the host: got %+v", got)
	}
}

func TestAnExecIsLikeTheInitInWhatItDoesNotSay(t *testing.T) {
	g := newGuest(t)
	s := g.spec("sh", "-c", "echo ready; while :; do sleep 0.05; done")
	s.Process.OOMScoreAdj = new(333)
	s.Process.User.Umask = new(uint32(0o27))
	s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 99, Hard: 99}}
	c, err := g.create(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	e, err := c.exec(&specs.Process{
		Args: []string{"sh", "-c", "cat /proc/self/oom_score_adj; umask; ulimit -n; grep CapEff /proc/self/status"},
		Cwd:  "/", Env: []string{"PATH=/bin"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := e.finish(); got.stdout != "333\n0027\n99\nCapEff:\t00000000080000eb\n" {
		t.Errorf("got %+v", got)
	}
	c.end()
}

func TestAnExecsAffinity(t *testing.T) {
	var have unix.CPUSet
	if err := unix.SchedGetaffinity(0, &have); err != nil || !have.IsSet(0) || !have.IsSet(1) {
		t.Skip("needs two processors")
	}
	g := newGuest(t)
	c := g.sleeper()
	for _, x := range []struct {
		affinity specs.CPUAffinity
		want     string
	}{
		{specs.CPUAffinity{Initial: "0", Final: "1"}, "1\n"},
		{specs.CPUAffinity{Final: "0"}, "0\n"},
		{specs.CPUAffinity{Initial: "0-0"}, "0\n"},
	} {
		p := g.spec("sh", "-c", "grep Cpus_allowed_list /proc/self/status | cut -f 2").Process
		p.ExecCPUAffinity = &x.affinity
		e, err := c.exec(p)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.finish(); got.stdout != x.want {
			t.Errorf("%+v: got %+v", x.affinity, got)
		}
	}
	p := g.spec("true").Process
	p.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0-"}
	_, err := c.exec(p)
	mustFail(t, err, "execCPUAffinity.initial")
	c.end()
}

// TestAWorkingDirectoryOutsideIsRefused is CVE-2024-21626: a descriptor of the runtime as the way out.
func TestAWorkingDirectoryOutsideIsRefused(t *testing.T) {
	g := newGuest(t)
	c := g.sleeper()
	for _, cwd := range []string{"/proc/self/fd/3", "/proc/self/fd/4", "/proc/self/fd/5", "/proc/self/fd/6", "/proc/self/fd/7",
		"/proc/self/fd/8", "/proc/self/fd/9", "/proc/thread-self/fd/10"} {
		s := g.spec("pwd")
		s.Process.Cwd = cwd
		if r, err := g.create(s); err == nil {
			t.Errorf("init in %s: %+v", cwd, r.finish())
		}
		if e, err := c.exec(s.Process); err == nil {
			t.Errorf("exec in %s: %+v", cwd, e.finish())
		}
	}
	c.end()
}

// TestOnlyStandardDescriptorsReachTheProgram, whatever the way it is started.
func TestOnlyStandardDescriptorsReachTheProgram(t *testing.T) {
	g := newGuest(t)
	g.own(100000)
	for _, terminal := range []bool{false, true} {
		for _, user := range []bool{false, true} {
			s := g.spec("sh", "-c", "for n in $(seq 0 99); do test -e /proc/$$/fd/$n && echo $n; done; true")
			s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/true", Args: []string{"true"}}}}
			if user {
				userNamespace(s)
			}
			s.Process.Terminal = terminal
			got := strings.Fields(g.run(s).stdout)
			if strings.Join(got, " ") != "0 1 2" {
				t.Errorf("init, terminal %v, user namespace %v: %q", terminal, user, got)
			}
			args := s.Process.Args
			s.Process.Args, s.Process.Terminal = []string{"sleep", "1000"}, false
			c, err := g.create(s)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.start(); err != nil {
				t.Fatal(err)
			}
			p := g.spec(args...).Process
			p.Terminal = terminal
			e, err := c.exec(p)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Fields(e.finish().stdout); strings.Join(got, " ") != "0 1 2" {
				t.Errorf("exec, terminal %v, user namespace %v: %q", terminal, user, got)
			}
			c.end()
		}
	}
}

// TestTheAgentIsHiddenFromTheContainer is CVE-2019-5736 and its like: a stage that is about to join is the agent's
// executable, with descriptors of the agent's. In a VM that executable is on a mount that is read-only, as well.
func TestTheAgentIsHiddenFromTheContainer(t *testing.T) {
	g := newGuest(t)
	c := g.sleeper()
	e := c.mustExec("true") // prepared, and in the container's pid namespace
	spy := c.mustExec("sh", "-c", `n=husk-st; for d in /proc/[0-9]*; do
		case $(cat $d/cmdline | tr '\0' ' ') in *${n}age*)
			echo found
			for f in exe root cwd; do readlink $d/$f; done
			for f in $d/fd/*; do readlink $f; head -c 1 $f; done
			cat $d/environ $d/maps; head -c 1 $d/exe; head -c 1 $d/mem; ls $d/root/; echo x > $d/exe;;
		esac; done 2>/dev/null; true`)
	if got := spy.finish(); got.stdout != "found\n" {
		t.Errorf("got %+v", got)
	}
	if got := e.finish(); got.code != 0 {
		t.Errorf("got %+v", got)
	}
	c.end()
}

// TestTheAgentAsAContainersProgram: /proc/self/exe, when the stage executes it, is the agent, which then is a program
// of the container without any privilege, and refuses to be anything.
func TestTheAgentAsAContainersProgram(t *testing.T) {
	g := newGuest(t)
	s := g.spec("/proc/self/exe", "husk-stage")
	if got := g.run(s); got.code == 0 || got.stdout != "" {
		t.Errorf("got %+v", got)
	}
	s = g.spec("sh", "-c", "echo text > /proc/self/fd/3; true")
	if got := g.run(s); got.stderr == "" {
		t.Errorf("got %+v", got)
	}
}

func TestExecAfterTheInitHasEndedSaysSo(t *testing.T) {
	g := newGuest(t)
	c, err := g.create(g.spec("true"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	c.wait()
	_, err = c.exec(g.spec("true").Process)
	mustFail(t, err, "is not running")
	if _, err := c.delete(); err != nil {
		t.Error(err)
	}
	g.nothingLeft()
}

// TestExecsWhileTheInitEnds races them: each either runs or says why not, and nothing is left.
func TestExecsWhileTheInitEnds(t *testing.T) {
	g := newGuest(t)
	for _, user := range []bool{false, true} {
		g.own(100000)
		s := g.spec("sh", "-c", "cat; exit 3")
		if user {
			userNamespace(s)
		}
		c, err := g.create(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		for range 4 {
			go func() {
				defer func() { done <- struct{}{} }()
				for {
					_, err := c.exec(g.spec("sleep", "100").Process)
					if err != nil {
						if !strings.Contains(err.Error(), "not running") && !strings.Contains(err.Error(), "already finished") {
							t.Errorf("user namespace %v: %v", user, err)
						}
						return
					}
				}
			}()
		}
		_ = c.stdin.CloseWrite()
		if got := c.wait().GetStatus(); got != 3 {
			t.Errorf("status %d", got)
		}
		for range 4 {
			<-done
		}
		if _, err := c.delete(); err != nil {
			t.Error(err)
		}
		g.nothingLeft()
	}
}

func TestWhatIsPausedIsNotStarted(t *testing.T) {
	g := newGuest(t)
	c := g.sleeper()
	e := c.mustExec("echo", "x")
	if _, err := g.client.Pause(t.Context(), &agentv1.PauseRequest{ContainerId: c.id}); err != nil {
		t.Fatal(err)
	}
	mustFail(t, e.start(), "paused")
	if _, err := g.client.Resume(t.Context(), &agentv1.ResumeRequest{ContainerId: c.id}); err != nil {
		t.Fatal(err)
	}
	if got := e.finish(); got.stdout != "x\n" {
		t.Errorf("got %+v", got)
	}
	c.end()
}

func TestHooksRunInTheContainersNamespaces(t *testing.T) {
	g := newGuest(t)
	outside := filepath.Join(g.dir, "outside")
	if err := os.Mkdir(outside, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(outside, 0o777); err != nil {
		t.Fatal(err)
	}
	sh := filepath.Join(g.root, "bin/busybox")
	hook := func(path, script string) specs.Hook {
		return specs.Hook{Path: path, Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin:" + g.inside(g.root) + "/bin", "MARK=m"}}
	}
	s := g.spec("cat", "/tmp/in", "/state")
	s.Annotations = map[string]string{"key": "value"}
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/out", Type: "bind", Source: g.inside(outside), Options: []string{"bind"}})
	s.Hooks = &specs.Hooks{
		// The guest's paths, the container's names.
		CreateContainer: []specs.Hook{hook(g.inside(sh), `cat > `+g.inside(g.root)+`/state; (hostname; umask) > `+g.inside(g.root)+`/tmp/in`)},
		// The container's paths, and its user.
		StartContainer: []specs.Hook{hook("/bin/sh", `cat > /out/state; id -u > /out/uid; echo $MARK > /out/mark; echo lost`)},
	}
	s.Process.User = specs.User{UID: 1000, GID: 1000}
	s.Process.Capabilities = nil
	c, err := g.create(s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(outside, "uid")); err == nil {
		t.Error("the startContainer hook ran before the start")
	}
	got := c.finish()
	if !strings.HasPrefix(got.stdout, "testhost\n0022\n{") || !strings.Contains(got.stdout, `"status":"creating"`) ||
		!strings.Contains(got.stdout, `"annotations":{"key":"value"}`) || !strings.Contains(got.stdout, `"id":"`+c.id+`"`) {
		t.Errorf("got %+v", got)
	}
	for file, want := range map[string]string{"uid": "1000\n", "mark": "m\n", "state": `"status":"created"`} {
		if text, err := os.ReadFile(filepath.Join(outside, file)); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s: %q, %v", file, text, err)
		}
	}
}

func TestAHookThatFailsEndsTheContainer(t *testing.T) {
	g := newGuest(t)
	sh := g.inside(filepath.Join(g.root, "bin/busybox"))
	hooks := []specs.Hook{{Path: sh, Args: []string{"sh", "-c", "echo why >&2; exit 5"}}}
	s := g.spec("echo", "ran")
	s.Hooks = &specs.Hooks{CreateContainer: hooks}
	_, err := g.create(s)
	mustFail(t, err, "createContainer hook "+sh+": exit status 5: why")
	g.nothingLeft()

	hooks[0].Path = "/bin/busybox"
	s.Hooks = &specs.Hooks{StartContainer: hooks}
	c, err := g.create(s)
	if err != nil {
		t.Fatal(err)
	}
	mustFail(t, c.start(), "startContainer hook /bin/busybox: exit status 5: why")
	if _, err := c.delete(); err != nil {
		t.Error(err)
	}
	g.nothingLeft()

	s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: sh, Args: []string{"sleep", "1000"}, Timeout: new(1)}}}
	_, err = g.create(s)
	mustFail(t, err, "timeout of 1 s")
	g.nothingLeft()
}
