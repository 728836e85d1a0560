package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/huskvm/husk/test/rig"
)

// lines compares a container's output with what is wanted, line by line.
func lines(t *testing.T, s *specs.Spec, want ...string) {
	t.Helper()
	res := runSpec(t, s)
	got := strings.Split(strings.TrimRight(res.Stdout, "\n"), "\n")
	if diff := cmp.Diff(want, got); diff != "" || res.Status != 0 {
		t.Errorf("status %d, stderr %q, %s", res.Status, res.Stderr, diff)
	}
}

func TestEveryFieldOfTheProcessIsApplied(t *testing.T) {
	s := script(t, `id -u; id -g; id -G; umask; pwd; echo "$WORDS"; ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj
		grep -E '^(Cap|NoNew)' /proc/self/status | tr -d '\t'
		uname -m; [ -t 0 ] || echo no terminal`)
	umask, score := uint32(0o27), 321
	bind := []string{"CAP_NET_BIND_SERVICE"}
	p := s.Process
	p.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{10, 2000}, Umask: &umask}
	p.Cwd = "/made/by/the/runtime"
	p.Env = append(p.Env, "WORDS=two words")
	p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}}
	p.OOMScoreAdj = &score
	p.Capabilities = &specs.LinuxCapabilities{
		Bounding: []string{"CAP_CHOWN", "CAP_NET_BIND_SERVICE"}, Permitted: bind, Inheritable: bind, Effective: bind, Ambient: bind,
	}
	p.NoNewPrivileges = true
	s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
	lines(t, s,
		"1000", "1000", "1000 10 2000", "0027", "/made/by/the/runtime", "two words", "100", "200", "321",
		"CapInh:0000000000000400", "CapPrm:0000000000000400", "CapEff:0000000000000400", "CapBnd:0000000000000401", "CapAmb:0000000000000400",
		"NoNewPrivs:1", "i686", "no terminal")
}

func TestTheProcessIsScheduledAsItAsks(t *testing.T) {
	needNewSpec(t)
	s := script(t, `awk '{print $19, $41}' /proc/$$/stat; ionice -p $$`)
	s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 5}
	s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 3}
	lines(t, s, "5 3", "best-effort: prio 3")
}

func TestLabelsOfTheHostsSecurityModulesAreNotedOnce(t *testing.T) {
	s := script(t, "true")
	s.Process.ApparmorProfile, s.Process.SelinuxLabel = "docker-default", "system_u:system_r:container_t:s0"
	before, err := os.ReadFile(shared.LogPath())
	if err != nil {
		t.Fatal(err)
	}
	if res := runSpec(t, s); res.Status != 0 {
		t.Errorf("%+v", res)
	}
	log, err := os.ReadFile(shared.LogPath())
	if err != nil {
		t.Fatal(err)
	}
	log = log[len(before):]
	for _, field := range []string{"process.apparmorProfile", "process.selinuxLabel"} {
		if n := strings.Count(string(log), field+" is not applied"); n != 1 {
			t.Errorf("the log has %d notes on %s", n, field)
		}
	}
}

// What runc's container is, husk's is. The root's own mount is of another kind, and what the host's kernel has and
// the guest's has not is masked on one side only; ignored signals runc inherits from whoever has started containerd.
func TestAContainerLooksAsUnderRunc(t *testing.T) {
	const look = `id; pwd; env | sort; umask; hostname; ls -ln /dev | tail -n +2 | grep -v ' core -> ' | sed 's/ [A-Z][a-z][a-z] .*:.. / /'
		grep -E '^(Umask|Groups|Cap|NoNew|Seccomp:|Sig[BC])' /proc/self/status
		ulimit -n; readlink /proc/1/cwd; ls /proc/self/fd
		awk '$5 != "/" && $5 !~ "^/proc/(acpi|kcore|sysrq-trigger)$" {sub(/ - .*/, ""); print $4, $5, $6}' /proc/self/mountinfo | sed 's/,relatime//' | sort
		for p in /proc/timer_list /proc/keys /sys/firmware; do head -c 1 $p 2>/dev/null | wc -c; ls $p | wc -l; done
		for p in /proc/sys/kernel/hostname /sys/x /proc/sysrq-trigger /x /tmp/x /dev/shm/x; do (echo x > $p) 2>/dev/null; echo $p $?; done
		mknod /dev/mem c 1 1 && head -c 1 /dev/mem; echo $?`
	for _, c := range []struct {
		name   string
		change func(*specs.Spec)
	}{
		{"by default", func(*specs.Spec) {}},
		{"as a user", func(s *specs.Spec) { s.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{5}} }},
		{"with a read-only root", func(s *specs.Spec) { s.Root.Readonly = true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out [2]string
			for i, runtime := range []string{runc, rig.Runtime} {
				s := script(t, look)
				c.change(s)
				res := runSpecOn(t, runtime, s)
				out[i] = strings.ReplaceAll(res.Stdout, s.Root.Path, "")
				if res.Stderr != "" && !strings.Contains(res.Stderr, "/dev/mem") {
					t.Logf("%s says %s", runtime, res.Stderr)
				}
			}
			if diff := cmp.Diff(strings.Split(out[0], "\n"), strings.Split(out[1], "\n")); diff != "" {
				t.Errorf("runc -, husk +:\n%s", diff)
			}
		})
	}
}

// An exec takes its processors from the process that it is given, as ctr takes it from the container's.
func TestAnExecRunsOnTheProcessorsThatItAsksFor(t *testing.T) {
	needNewSpec(t)
	s := script(t, "sleep 1000")
	s.Annotations = map[string]string{"io.husk.vcpus": "2"}
	s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0", Final: "0"}
	b := startSpec(t, s)
	if res := ctr(t, "task", "exec", "--exec-id", "x", b.id, "grep", "Cpus_allowed_list", "/proc/self/status"); strings.Join(strings.Fields(res.Stdout), " ") != "Cpus_allowed_list: 0" {
		t.Errorf("%+v", res)
	}
}

func TestAnExecAfterTheEndIsAClearError(t *testing.T) {
	id := detached(t, "true")
	eventually(t, "it has ended", func() bool { return taskStatus(t, id) == "STOPPED" })
	out, err := shared.Ctr(testContext(t), "task", "exec", "--exec-id", "late", id, "true").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "stopped") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestExecsAreAsTheyAsk(t *testing.T) {
	b := start(t, []string{"--env", "OF=init"}, "sleep", "1000")
	for _, c := range []struct {
		name  string
		flags []string
		args  []string
		want  string
	}{
		{"user", []string{"--user", "1000:2000"}, []string{"sh", "-c", "id -u; id -g"}, "1000\n2000\n"},
		{"working directory", []string{"--cwd", "/home/user"}, []string{"pwd"}, "/home/user\n"},
		{"environment of the container", nil, []string{"sh", "-c", "echo $OF"}, "init\n"},
		{"no terminal", nil, []string{"sh", "-c", "[ -t 0 ] || [ -t 1 ] || echo none"}, "none\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{"task", "exec", "--exec-id", newID(t)}, c.flags...)
			if res := ctr(t, append(append(args, b.id), c.args...)...); res.Stdout != c.want {
				t.Errorf("%+v", res)
			}
		})
	}
}
