package agent

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// runtimetest of opencontainers/runtime-tools runs in a container, compares what it finds with config.json, and reports
// in TAP. Its releases do not build any more; this commit does.
const (
	runtimetestPackage = "github.com/opencontainers/runtime-tools/cmd/runtimetest"
	runtimetestVersion = "v0.9.1-0.20251114084447-edf4cb3d2116"
)

// unreachable is how go reports that the network, not the package, is at fault.
var unreachable = regexp.MustCompile(`dial tcp|no such host|i/o timeout|connection refused|network is unreachable|module lookup disabled|TLS handshake`)

// runtimetest builds the program once, into the user's cache.
func runtimetest(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "husk-test", "runtimetest-"+runtimetestVersion)
	program := filepath.Join(dir, "runtimetest")
	if _, err := os.Stat(program); err == nil {
		return program
	}
	cmd := exec.Command("go", "install", runtimetestPackage+"@"+runtimetestVersion)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOBIN="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		if unreachable.Match(out) {
			t.Skipf("the Go module proxy can't be reached: %s", out)
		}
		t.Fatalf("build runtimetest: %v\n%s", err, out)
	}
	return program
}

// deviations are lines of "not ok" that we stand by, with the reason.
var deviations = []struct{ line, reason string }{
	{"/dev/console (default device) has the expected major ID",
		"runtimetest expects number 0:0 of the console, not the terminal's (it says so: FIXME)"},
}

func TestConformanceByRuntimetest(t *testing.T) {
	program := runtimetest(t)
	g := newGuest(t)
	text, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	g.file("runtimetest", string(text), 0o755)
	mode := func(m os.FileMode) *os.FileMode { return &m }
	for _, c := range []struct {
		name   string
		change func(*specs.Spec)
		least  int // of tests
	}{
		{"as containerd makes it", func(*specs.Spec) {}, 60},
		{"read-only root", func(s *specs.Spec) { s.Root.Readonly = true }, 60},
		{"terminal", func(s *specs.Spec) { s.Process.Terminal = true }, 60},
		{"user, groups, directory, environment, names", func(s *specs.Spec) {
			s.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{5, 50, 60000}}
			// An execve takes the others from an ordinary user.
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: s.Process.Capabilities.Bounding}
			s.Process.Cwd = "/srv/deep"
			s.Process.Env = append(s.Process.Env, "A=b", "EMPTY=")
			s.Hostname, s.Domainname = "other", "example.org"
		}, 60},
		{"limits", func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{
				{Type: "RLIMIT_NOFILE", Soft: 200, Hard: 200}, // runtimetest, being a Go program, raises its own
				{Type: "RLIMIT_CORE", Soft: 0, Hard: 1 << 20},
				{Type: "RLIMIT_CPU", Soft: 1000, Hard: 2000}, {Type: "RLIMIT_FSIZE", Soft: 1 << 30, Hard: 1 << 31},
				{Type: "RLIMIT_NPROC", Soft: 500, Hard: 600}, {Type: "RLIMIT_STACK", Soft: 4 << 20, Hard: 8 << 20},
				{Type: "RLIMIT_DATA", Soft: 1 << 33, Hard: 1 << 34}, {Type: "RLIMIT_MSGQUEUE", Soft: 10, Hard: 20},
			}
			s.Process.OOMScoreAdj = new(200)
		}, 60},
		{"capabilities", func(s *specs.Spec) {
			one := []string{"CAP_NET_BIND_SERVICE"}
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: one, Permitted: one, Effective: one, Inheritable: one, Ambient: one}
		}, 60},
		{"privileges", func(s *specs.Spec) {
			s.Process.NoNewPrivileges = false
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
		}, 50},
		{"sysctls", func(s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1", "kernel.msgmax": "5000", "net.core.somaxconn": "256"}
		}, 60},
		{"masked and read-only paths", func(s *specs.Spec) {
			g.file("etc/hidden", "text", 0o644)
			g.file("etc/fixed", "text", 0o644)
			s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/etc/hidden", "/home", "/proc/timer_list", "/proc/acpi")
			s.Linux.ReadonlyPaths = append(s.Linux.ReadonlyPaths[:2], "/etc/fixed", "/tmp")
		}, 60},
		{"devices", func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{
				{Path: "/dev/one", Type: "c", Major: 1, Minor: 3, FileMode: mode(0o640), UID: new(uint32(3)), GID: new(uint32(4))},
				{Path: "/dev/two", Type: "b", Major: 7, Minor: 200, FileMode: mode(0o600), UID: new(uint32(0)), GID: new(uint32(0))},
				{Path: "/dev/three", Type: "p", FileMode: mode(0o622), UID: new(uint32(0)), GID: new(uint32(0))},
			}
			s.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
		}, 60},
		{"mounts", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts,
				specs.Mount{Destination: "/new/tmpfs", Type: "tmpfs", Source: "scratch", Options: []string{"size=1m", "mode=700", "nosuid"}},
				specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup2", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}})
		}, 60},
		{"user and time namespaces", func(s *specs.Spec) {
			userNamespace(s)
			timeNamespace(s, "monotonic", 1)
		}, 60},
		{"shared root", propagation("shared"), 60},
		{"private root", propagation("private"), 60},
		{"slave root", propagation("slave"), 60},
		{"unbindable root", propagation("unbindable"), 60},
	} {
		s := g.spec("/runtimetest", "--path=/", "--compliance-level=should")
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = s.Linux.MaskedPaths[:3], s.Linux.ReadonlyPaths[:2]
		c.change(s)
		owner := 0
		if len(s.Linux.UIDMappings) > 0 {
			owner = int(s.Linux.UIDMappings[0].HostID)
		}
		g.own(owner)
		config, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		g.file("config.json", string(config), 0o644)
		got := g.run(s)
		bad, good := tap(got.stdout)
		if got.code != 0 || got.stderr != "" || len(good) < c.least {
			t.Errorf("%s: status %d after %d tests: %s%s", c.name, got.code, len(good), got.stderr, got.stdout)
		}
		for _, line := range bad {
			t.Errorf("%s: %s", c.name, line)
		}
	}
}

func propagation(mode string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.RootfsPropagation = mode
		for _, set := range []*[]string{&s.Process.Capabilities.Bounding, &s.Process.Capabilities.Effective, &s.Process.Capabilities.Permitted} {
			*set = append(slices.Clone(*set), "CAP_SYS_ADMIN")
		}
	}
}

// tap sorts a report's lines; what is expected is good, as is what was skipped.
func tap(report string) (bad, good []string) {
	for line := range strings.Lines(strings.ReplaceAll(report, "\r\n", "\n")) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "not ok"):
			_, claim, _ := strings.Cut(line, " - ")
			known := strings.Contains(line, "# TODO")
			for _, d := range deviations {
				known = known || strings.Contains(claim, d.line)
			}
			if known {
				good = append(good, line)
			} else {
				bad = append(bad, line)
			}
		case strings.HasPrefix(line, "ok"):
			good = append(good, line)
		}
	}
	return bad, good
}
