package stage

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestExecutablesAreFoundAsShellsDo(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"a/prog": 0o755, "b/prog": 0o755, "a/data": 0o644, "b/both": 0o755, "a/both": 0o644} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "a/dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	path := a + ":" + b
	for _, c := range []struct {
		name, want, reason string
		status             int
	}{
		{name: "prog", want: a + "/prog"},
		{name: "both", want: b + "/both"},
		{name: a + "/prog", want: a + "/prog"},
		{name: "data", reason: "permission denied", status: 126},
		{name: a + "/data", reason: "permission denied", status: 126},
		{name: a, reason: "is a directory", status: 126},
		{name: "dir", reason: "executable file not found in $PATH", status: 127},
		{name: "none", reason: "executable file not found in $PATH", status: 127},
		{name: "", reason: "executable file not found in $PATH", status: 127},
		{name: a + "/none", reason: "stat " + a + "/none: no such file or directory", status: 127},
		{name: a + "/prog/x", reason: "stat " + a + "/prog/x: not a directory", status: 127},
	} {
		got, err := Lookup(c.name, path)
		if c.status == 0 {
			if err != nil || got != c.want {
				t.Errorf("%q: got %q, %v", c.name, got, err)
			}
			continue
		}
		e, ok := err.(*ExecutableError)
		if !ok || e.Status != c.status || e.Reason != c.reason {
			t.Errorf("%q: got %v, want %d, %s", c.name, err, c.status, c.reason)
		}
	}
	t.Chdir(a)
	if got, err := Lookup("prog", ""); err == nil {
		t.Errorf("without a PATH %q was found", got)
	}
	if got, err := Lookup("prog", ":/none"); err != nil || got != "./prog" {
		t.Errorf("in the current directory: got %q, %v", got, err)
	}
}

func TestTheEnvironmentHasEachVariableOnce(t *testing.T) {
	for _, c := range []struct{ in, want []string }{
		{nil, []string{"HOME=/h"}},
		{[]string{"A=1", "B=", "A=2=3"}, []string{"A=2=3", "B=", "HOME=/h"}},
		{[]string{"HOME=", "A=1"}, []string{"HOME=/h", "A=1"}},
		{[]string{"HOME=/x", "HOME=/y"}, []string{"HOME=/y"}},
	} {
		got, err := environment(c.in, "/h")
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%q: got %q, %v, want %q", c.in, got, err, c.want)
		}
	}
	for _, bad := range []string{"A", "=A", "", "A=\x00"} {
		if got, err := environment([]string{bad}, "/h"); err == nil {
			t.Errorf("%q was accepted: %q", bad, got)
		}
	}
}

func TestListsOfProcessors(t *testing.T) {
	for text, want := range map[string][]int{"0": {0}, "0-2,5": {0, 1, 2, 5}, "1023": {1023}, "3, 1": {1, 3}} {
		set, err := parseList(text)
		if err != nil || set.Count() != len(want) {
			t.Errorf("%q: %v", text, err)
			continue
		}
		for _, n := range want {
			if !set.IsSet(n) {
				t.Errorf("%q: %d is missing", text, n)
			}
		}
	}
	for _, text := range []string{"", "a", "1-", "-1", "2-1", "0-1024", "99999999999", "1,,2"} {
		if _, err := parseList(text); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

func TestRlimitsAreCheckedByName(t *testing.T) {
	for _, c := range []struct {
		list []specs.POSIXRlimit
		ok   bool
	}{
		{[]specs.POSIXRlimit{{Type: "RLIMIT_CPU"}, {Type: "RLIMIT_AS"}}, true},
		{[]specs.POSIXRlimit{{Type: "RLIMIT_CPU"}, {Type: "RLIMIT_CPU"}}, false},
		{[]specs.POSIXRlimit{{Type: "CPU"}}, false},
	} {
		if err := CheckRlimits(c.list); (err == nil) != c.ok {
			t.Errorf("%v: %v", c.list, err)
		}
	}
}

func TestSysctlKeysAreWrittenEitherWay(t *testing.T) {
	for key, want := range map[string]string{
		"net.ipv4.ip_forward":                "net/ipv4/ip_forward",
		"net/ipv4/conf/eth0.100/rp_filter":   "net/ipv4/conf/eth0.100/rp_filter",
		"net.ipv4.conf.eth0/100.rp_filter":   "net/ipv4/conf/eth0.100/rp_filter",
		"kernel/domainname":                  "kernel/domainname",
		"net../../../etc/passwd":             "",
		"../../etc/passwd":                   "",
		"":                                   "",
		"net.ipv4.conf.all.accept_redirects": "net/ipv4/conf/all/accept_redirects",
	} {
		got, err := sysctlPath(key)
		if (err != nil) != (want == "") || got != want {
			t.Errorf("%q: got %q, %v, want %q", key, got, err, want)
		}
	}
}

func TestCapabilitiesAreReadByName(t *testing.T) {
	c, err := parseCapabilities(&specs.LinuxCapabilities{
		Bounding: []string{"CAP_CHOWN", "cap_sys_admin", "CAP_CHECKPOINT_RESTORE", "CAP_NOT_YET"},
	})
	want := set(1<<unix.CAP_CHOWN | 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_CHECKPOINT_RESTORE)
	if err != nil || c.bounding != want || c.effective != 0 {
		t.Errorf("got %+v, %v", c, err)
	}
	if _, err := parseCapabilities(&specs.LinuxCapabilities{Effective: []string{"CHOWN"}}); err == nil {
		t.Error("a name without CAP_ was accepted")
	}
	unknown := UnknownCapabilities(&specs.LinuxCapabilities{Bounding: []string{"CAP_KILL", "CAP_NOT_YET"}, Ambient: []string{"CAP_NOT_YET"}})
	if len(unknown) != 1 || unknown[0] != "CAP_NOT_YET" {
		t.Errorf("unknown: %q", unknown)
	}
	if len(capabilityNames) != unix.CAP_LAST_CAP+1 {
		t.Errorf("%d names, the kernel's header has %d", len(capabilityNames), unix.CAP_LAST_CAP+1)
	}
}
