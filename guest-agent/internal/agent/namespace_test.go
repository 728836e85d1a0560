package agent

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// userNamespace gives a container one, with 65536 ids from 100000 on.
func userNamespace(s *specs.Spec) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	s.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
}

func timeNamespace(s *specs.Spec, clock string, seconds int64) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{clock: {Secs: seconds}}
}

// own gives the container's root to a user of the guest, as a snapshot for a user namespace is.
func (g *guest) own(uid int) {
	g.t.Helper()
	err := filepath.WalkDir(g.root, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, uid)
	})
	if err != nil {
		g.t.Fatal(err)
	}
}

func TestAUserNamespaceHasItsMappingsAndItsCapabilities(t *testing.T) {
	g := newGuest(t)
	g.own(100000)
	for _, c := range []struct{ script, want string }{
		{"cat /proc/self/uid_map /proc/self/gid_map", "         0     100000      65536\n         0     100000      65536\n"},
		{"id -u; id -g; id -G", "0\n0\n0\n"},
		{"grep CapEff /proc/self/status", "CapEff:\t00000000080000eb\n"},
		{"stat -c %u /proc/self/ /bin/sh", "0\n0\n"},
		{"touch /made && stat -c %u:%g /made", "0:0\n"},
		{"chown 5:6 /made && stat -c %u:%g /made", "5:6\n"},
		{"hostname; ls -d /proc/[0-9]* | head -n 1", "testhost\n/proc/1\n"},
		{"stat -c %t:%T /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty", "1:3\n1:5\n1:7\n1:8\n1:9\n5:0\n"},
		{"echo x > /dev/null && echo again > /dev/stdout", "again\n"},
		{"ls /proc/self/fd | wc -l", "4\n"},
		{"grep ^0: /proc/self/cgroup", "0::/\n"},
		{"ulimit -n; ulimit -H -n", "100\n200\n"},
		{"cat /proc/self/oom_score_adj", "500\n"},
		{"cat /proc/sys/net/ipv4/ip_default_ttl", "77\n"},
		{"echo x > /proc/sys/kernel/domainname; cat /proc/kcore; ls /sys/firmware", ""},
	} {
		s := g.spec("sh", "-c", c.script)
		userNamespace(s)
		s.Process.OOMScoreAdj = new(500)
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 200, Soft: 100}}
		s.Linux.Sysctl = map[string]string{"net.ipv4.ip_default_ttl": "77"}
		if got := g.run(s); got.stdout != c.want {
			t.Errorf("%s: got %q (stderr %q), want %q", c.script, got.stdout, got.stderr, c.want)
		}
	}
}

// TestLimitsOfAUserNamespaceAreRaised by the agent, which may do what the container's root may not.
func TestLimitsOfAUserNamespaceAreRaised(t *testing.T) {
	g := newGuest(t)
	if !g.vm && !maySetResources(t) {
		t.Skip("needs CAP_SYS_RESOURCE")
	}
	g.own(100000)
	s := g.spec("sh", "-c", "ulimit -l; cat /proc/self/oom_score_adj")
	userNamespace(s)
	s.Process.OOMScoreAdj = new(-500)
	s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_MEMLOCK", Hard: 1 << 40, Soft: 1 << 40}}
	if got := g.run(s); got.stdout != "1073741824\n-500\n" {
		t.Errorf("got %+v", got)
	}
}

// TestLimitsAreRaisedBeforeTheStageSetsItsOwn which would fail else. A frozen container keeps the stage from being there.
func TestLimitsAreRaisedBeforeTheStageSetsItsOwn(t *testing.T) {
	g := newGuest(t)
	if g.vm {
		t.Skip("the guest's cgroups are out of reach")
	}
	g.own(100000)
	s := g.spec("sh", "-c", "echo ready; while :; do sleep 0.05; done")
	userNamespace(s)
	c, err := g.create(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	c.line("ready\n")
	c.freeze(true)
	p := g.spec("sh", "-c", "cat /proc/self/oom_score_adj; ulimit -l").Process
	p.OOMScoreAdj = new(345)
	adjusted, raised := "345\n", ""
	if maySetResources(t) {
		p.Rlimits = append(p.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_MEMLOCK", Hard: 1 << 40, Soft: 1 << 40})
		raised = strconv.Itoa(1<<40) + " "
	}
	held := make(chan error, 1)
	var e *running
	go func() {
		e, err = c.exec(p)
		held <- err
	}()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var seen bool
		procs, _ := os.ReadFile(filepath.Join(c.cgroup(), "cgroup.procs"))
		for pid := range strings.FieldsSeq(string(procs)) {
			adj, _ := os.ReadFile(filepath.Join("/proc", pid, "oom_score_adj"))
			limits, _ := os.ReadFile(filepath.Join("/proc", pid, "limits"))
			seen = seen || string(adj) == adjusted && strings.Contains(string(limits), raised)
		}
		if seen {
			break
		}
		if time.Now().After(end) {
			t.Error("the child has not been given its limits")
			break
		}
	}
	c.freeze(false)
	if err := <-held; err != nil {
		t.Fatal(err)
	}
	if got := e.finish(); !strings.HasPrefix(got.stdout, adjusted) {
		t.Errorf("got %+v", got)
	}
	c.end()
}

func maySetResources(t *testing.T) bool {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

func TestAUserOfAUserNamespace(t *testing.T) {
	g := newGuest(t)
	g.own(100000)
	s := g.spec("sh", "-c", "echo $(id -u) $(id -g) $(id -G) $HOME; echo again > /dev/stderr")
	userNamespace(s)
	s.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{50}}
	if got := g.run(s); got != (result{0, "1000 1000 1000 50 /home/joe\n", "again\n"}) {
		t.Errorf("got %+v", got)
	}
	s = g.spec("sh", "-c", "tty; stat -c %u /dev/pts/0; test /dev/console -ef /dev/pts/0 && echo same")
	userNamespace(s)
	s.Process.Terminal = true
	s.Process.User = specs.User{UID: 1000, GID: 1000}
	if got := g.run(s); got.stdout != "/dev/pts/0\r\n1000\r\nsame\r\n" {
		t.Errorf("with a terminal: got %+v", got)
	}
}

// TestBindsOfAUserNamespaceMayBeBehindClosedDoors: the test's directory can't be entered by the container's root.
func TestBindsOfAUserNamespaceMayBeBehindClosedDoors(t *testing.T) {
	g := newGuest(t)
	g.own(100000)
	src := filepath.Join(g.dir, "src")
	if err := os.Mkdir(src, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(src, "closed"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "closed", "file"), []byte("text\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := g.spec("sh", "-c", "cat /data/file; touch /data/x")
	userNamespace(s)
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data", Type: "bind", Source: g.inside(filepath.Join(src, "closed")),
		Options: []string{"rbind", "ro"}})
	if got := g.run(s); got.stdout != "text\n" || !strings.Contains(got.stderr, "Read-only") {
		t.Errorf("got %+v", got)
	}
}

func TestAUserNamespaceWithoutANetworkOfItsOwnStillHasASys(t *testing.T) {
	g := newGuest(t)
	g.own(100000)
	s := g.spec("sh", "-c", "ls -d /sys/class/net/lo; touch /sys/x")
	userNamespace(s)
	s.Linux.Namespaces = withoutNamespace(s, specs.NetworkNamespace)
	if got := g.run(s); got.stdout != "/sys/class/net/lo\n" || got.stderr == "" {
		t.Errorf("got %+v", got)
	}
}

func withoutNamespace(s *specs.Spec, t specs.LinuxNamespaceType) []specs.LinuxNamespace {
	var list []specs.LinuxNamespace
	for _, n := range s.Linux.Namespaces {
		if n.Type != t {
			list = append(list, n)
		}
	}
	return list
}

func TestAWritableCgroupBelongsToTheProcess(t *testing.T) {
	g := newGuest(t)
	g.own(100000)
	for _, user := range []bool{false, true} {
		s := g.spec("sh", "-c", "mkdir /sys/fs/cgroup/in && echo $$ > /sys/fs/cgroup/in/cgroup.procs && grep ^0: /proc/self/cgroup")
		if user {
			userNamespace(s)
		} else {
			s.Process.User = specs.User{UID: 1000, GID: 1000}
		}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup"})
		if got := g.run(s); got.stdout != "0::/in\n" {
			t.Errorf("user namespace %v: got %+v", user, got)
		}
	}
}

func TestExecJoinsUserAndTimeNamespaces(t *testing.T) {
	g := newGuest(t)
	g.own(100000)
	for _, c := range []struct {
		name   string
		change func(*specs.Spec)
	}{
		{"user", userNamespace},
		{"time", func(s *specs.Spec) { timeNamespace(s, "boottime", 1000000) }},
		{"both", func(s *specs.Spec) { userNamespace(s); timeNamespace(s, "monotonic", 5) }},
		{"user, without a network", func(s *specs.Spec) {
			userNamespace(s)
			s.Linux.Namespaces = withoutNamespace(s, specs.NetworkNamespace)
		}},
		{"user, in the guest's pids", func(s *specs.Spec) {
			userNamespace(s)
			s.Linux.Namespaces = withoutNamespace(s, specs.PIDNamespace)
			s.Mounts[0] = specs.Mount{Destination: "/proc", Type: "bind", Source: "/proc", Options: []string{"rbind"}}
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
		}},
	} {
		s := g.spec("sh", "-c", "for n in user time uts ipc net mnt pid cgroup; do readlink /proc/self/ns/$n; done; while :; do sleep 0.05; done")
		c.change(s)
		r, err := g.create(s)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if err := r.start(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		p := g.spec("sh", "-c", "for n in user time uts ipc net mnt pid cgroup; do readlink /proc/self/ns/$n; done; ls /proc/self/fd | wc -l; id -u").Process
		e, err := r.exec(p)
		if err != nil {
			t.Errorf("%s: exec: %v", c.name, err)
			r.end()
			continue
		}
		want := r.lines(8)
		if got := e.finish(); got.stdout != want+"4\n0\n" || got.stderr != "" {
			t.Errorf("%s: the exec is in\n%sand the init in\n%s%s", c.name, got.stdout, want, got.stderr)
		}
		p = g.spec("sh", "-c", "tty; echo $(id -u) $(id -G)").Process
		p.Terminal, p.User = true, specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{50}}
		if e, err = r.exec(p); err != nil {
			t.Errorf("%s: exec: %v", c.name, err)
		} else if got := e.finish(); got.stdout != "/dev/pts/0\r\n1000 1000 50\r\n" {
			t.Errorf("%s: as a user: got %+v", c.name, got)
		}
		r.end()
	}
}

func (r *running) lines(n int) string {
	var all strings.Builder
	for range n {
		all.WriteString(r.readLine())
	}
	return all.String()
}

func TestTimeOffsetsMoveTheClocks(t *testing.T) {
	g := newGuest(t)
	s := g.spec("sh", "-c", "cut -d. -f1 /proc/uptime; cat /proc/self/timens_offsets")
	timeNamespace(s, "boottime", 100000000)
	s.Linux.TimeOffsets["monotonic"] = specs.LinuxTimeOffset{Secs: 7, Nanosecs: 8}
	got := strings.Fields(g.run(s).stdout)
	if len(got) != 7 || len(got[0]) < 9 || strings.Join(got[1:], " ") != "monotonic 7 8 boottime 100000000 0" {
		t.Errorf("got %q", got)
	}
}

// TestNamespacesCanBeJoined shares those of one container with another, as in a pod.
func TestNamespacesCanBeJoined(t *testing.T) {
	g := newGuest(t)
	g.own(100000)
	const list = "for n in user time uts ipc net pid cgroup; do readlink /proc/self/ns/$n; done"
	for _, c := range []struct {
		name   string
		change func(*specs.Spec)
		join   []specs.LinuxNamespaceType
	}{
		{"a pod's", func(*specs.Spec) {}, []specs.LinuxNamespaceType{"pid", "ipc", "uts", "network", "cgroup"}},
		{"with user", userNamespace, []specs.LinuxNamespaceType{"user", "ipc", "uts", "network"}},
		{"user alone", userNamespace, []specs.LinuxNamespaceType{"user"}},
		{"all, with user", userNamespace, []specs.LinuxNamespaceType{"user", "pid", "ipc", "uts", "network", "cgroup"}},
		{"time", func(s *specs.Spec) { timeNamespace(s, "boottime", 9) }, []specs.LinuxNamespaceType{"time"}},
	} {
		first := g.spec("sh", "-c", list+"; while :; do sleep 0.05; done")
		c.change(first)
		r, err := g.create(first)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if err := r.start(); err != nil {
			t.Fatal(err)
		}
		r.lines(7)
		s := g.spec("sh", "-c", list)
		s.Hostname = ""
		c.change(s)
		s.Linux.TimeOffsets = nil
		want := map[specs.LinuxNamespaceType]bool{}
		for _, j := range c.join {
			want[j] = true
			for i := range s.Linux.Namespaces {
				if s.Linux.Namespaces[i].Type == j {
					s.Linux.Namespaces[i].Path = "container:" + r.id
				}
			}
		}
		second, err := g.create(s)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			r.end()
			continue
		}
		e := r.mustExec("sh", "-c", list)
		theirs, ours := strings.Fields(e.finish().stdout), strings.Fields(second.finish().stdout)
		if len(theirs) != 7 || len(ours) != 7 {
			t.Errorf("%s: %q and %q", c.name, theirs, ours)
			r.end()
			continue
		}
		for i, n := range []specs.LinuxNamespaceType{"user", "time", "uts", "ipc", "network", "pid", "cgroup"} {
			asked := false
			for _, x := range s.Linux.Namespaces {
				asked = asked || x.Type == n
			}
			if same := theirs[i] == ours[i]; same != want[n] && (asked || !same) {
				t.Errorf("%s: %s: shared %v", c.name, n, same)
			}
		}
		r.end()
	}
}

func TestMappedMountsShowOtherOwners(t *testing.T) {
	g := newGuest(t)
	if g.vm {
		t.Skip("virtiofsd has no support for mapped ids")
	}
	src := filepath.Join(g.dir, "src")
	if err := os.Mkdir(src, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(src, "file"), 7, 8); err != nil {
		t.Fatal(err)
	}
	mappings := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 100}}
	mount := specs.Mount{Destination: "/data", Type: "bind", Source: g.inside(src), Options: []string{"rbind"}}
	mapped := mount
	mapped.UIDMappings, mapped.GIDMappings = mappings, mappings
	s := g.spec("sh", "-c", "stat -c %u:%g /data/file")
	s.Mounts = append(s.Mounts, mapped)
	if got := g.run(s); got.stdout != "1007:1008\n" {
		t.Errorf("own mappings: got %+v", got)
	}
	// With the container's: what is root's outside is root's inside.
	for _, option := range []string{"idmap", "ridmap"} {
		s = g.spec("sh", "-c", "stat -c %u:%g /data/file; touch /data/new && stat -c %u:%g /data/new")
		s.Mounts = append(s.Mounts, mount)
		s.Mounts[len(s.Mounts)-1].Options = []string{"rbind", option}
		userNamespace(s)
		g.own(100000)
		if got := g.run(s); got.stdout != "7:8\n0:0\n" {
			t.Errorf("%s: got %+v", option, got)
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(src, "new"), &st); err != nil || st.Uid != 0 {
			t.Errorf("%s: the new file's owner is %d, %v", option, st.Uid, err)
		}
	}
}
