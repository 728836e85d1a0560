package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// deviations are lines of runtimetest's "not ok" that husk stands by; docs/conformance.md has the reasons.
var deviations = []string{"/dev/console (default device) has the expected major ID"}

// runtimetest of opencontainers/runtime-tools compares, inside of a container, what it finds with config.json, and
// reports in TAP. The agent's own tests have it in more variants.
func TestConformanceByRuntimetest(t *testing.T) {
	if *runtimetest == "" {
		t.Skip("-runtimetest names no program")
	}
	program, err := os.ReadFile(*runtimetest)
	if err != nil {
		t.Fatal(err)
	}
	umask, score := uint32(0o27), 200
	for _, c := range []struct {
		name   string
		change func(*specs.Spec)
	}{
		{"as containerd makes it", func(*specs.Spec) {}},
		{"an ordinary user, read-only root, limits", func(s *specs.Spec) {
			s.Root.Readonly = true
			s.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{5, 50, 60000}, Umask: &umask}
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: s.Process.Capabilities.Bounding}
			s.Process.Cwd, s.Process.OOMScoreAdj = "/srv", &score
			s.Process.Env = append(s.Process.Env, "A=b", "EMPTY=")
			s.Hostname, s.Domainname = "other", "example.org"
			s.Process.Rlimits = []specs.POSIXRlimit{
				{Type: "RLIMIT_NOFILE", Soft: 200, Hard: 200}, // runtimetest, being a Go program, raises its own
				{Type: "RLIMIT_CPU", Soft: 1000, Hard: 2000}, {Type: "RLIMIT_FSIZE", Soft: 1 << 30, Hard: 1 << 31},
			}
		}},
		{"mounts, sysctls, masks, capabilities", func(s *specs.Spec) {
			one := []string{"CAP_NET_BIND_SERVICE"}
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: one, Permitted: one, Effective: one, Inheritable: one, Ambient: one}
			s.Linux.Sysctl = map[string]string{"kernel.msgmax": "5000", "net.core.somaxconn": "256"}
			s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/home")
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
			s.Mounts = append(s.Mounts,
				specs.Mount{Destination: "/new/tmpfs", Type: "tmpfs", Source: "scratch", Options: []string{"size=1m", "mode=700", "nosuid"}},
				specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup2", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSpec(t, "/runtimetest", "--path=/", "--compliance-level=should")
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = []string{"/proc/keys", "/sys/firmware"}, []string{"/proc/bus", "/proc/sys"}
			c.change(s)
			config, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			for name, data := range map[string][]byte{"runtimetest": program, "config.json": config} {
				if err := os.WriteFile(filepath.Join(s.Root.Path, name), data, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			res := runSpec(t, s)
			if good := strings.Count("\n"+res.Stdout, "\nok "); res.Status != 0 || good < 40 {
				t.Errorf("status %d after %d good tests: %s", res.Status, good, res.Stderr)
			}
			for line := range strings.Lines(res.Stdout) {
				if strings.HasPrefix(line, "not ok") && !strings.Contains(line, "# TODO") && !expected(line) {
					t.Error(line)
				}
			}
		})
	}
}

func expected(line string) bool {
	for _, d := range deviations {
		if strings.Contains(line, d) {
			return true
		}
	}
	return false
}
