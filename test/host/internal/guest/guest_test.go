package guest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestControllersAreThoseThatAreEnabled(t *testing.T) {
	const list = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t0\t1\t1\nmemory\t0\t1\t0\ncpu\t0\t1\t1\n"
	got, err := parseControllers(strings.NewReader(list))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"cpuset", "cpu"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestHierarchiesAreNamedAsSystemdNamesThem(t *testing.T) {
	got := hierarchies([]string{"cpuset", "net_prio", "cpuacct", "cpu", "freezer"})
	want := []hierarchy{
		{name: "cpu,cpuacct", aliases: []string{"cpu", "cpuacct"}},
		{name: "net_prio"},
		{name: "cpuset"},
		{name: "freezer"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(hierarchy{})); diff != "" {
		t.Error(diff)
	}
}

func TestWhatTheMachineHasEnabledIsDisabledAndMasked(t *testing.T) {
	dir := t.TempDir()
	wants := filepath.Join(dir, "multi-user.target.wants")
	if err := os.Mkdir(wants, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/lib/systemd/system/postgresql.service", filepath.Join(wants, "postgresql.service")); err != nil {
		t.Fatal(err)
	}
	// A unit of the machine's own under a name that is to be masked.
	if err := os.WriteFile(filepath.Join(dir, "networking.service"), []byte("[Service]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second time finds the work done
		if err := writeUnits(dir); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(wants); !os.IsNotExist(err) {
		t.Errorf("enabled units are still there: %v", err)
	}
	if target, err := os.Readlink(filepath.Join(dir, "networking.service")); err != nil || target != "/dev/null" {
		t.Errorf("networking.service points to %q, %v", target, err)
	}
	unit, err := os.ReadFile(filepath.Join(dir, "husk-host.service"))
	if err != nil || !strings.Contains(string(unit), "ExecStart="+ServiceProgram+"\n") {
		t.Errorf("the service is %q, %v", unit, err)
	}
}

func TestProcessesAreListedWithoutKernelThreads(t *testing.T) {
	proc := t.TempDir()
	add := func(pid, stat, cmdline, wchan string) {
		dir := filepath.Join(proc, pid)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string]string{"stat": stat, "cmdline": cmdline, "wchan": wchan} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	add("10", "10 (a) b) S 1 10 10", "sleep\x00100\x00", "hrtimer_nanosleep")
	add("2", "2 (kthreadd) S 0 0 0", "", "0")
	add("9", "9 (sh) R 1 9 9", "sh\x00", "0")
	got := describeProcesses(proc)
	lines := strings.Split(strings.TrimSpace(got), "\n")
	if len(lines) != 3 || !strings.HasSuffix(lines[1], " sh") || !strings.HasSuffix(lines[2], " sleep 100") {
		t.Fatalf("got\n%s", got)
	}
	if !strings.Contains(lines[2], "S hrtimer_nanosleep") {
		t.Errorf("state or place is missing in %q", lines[2])
	}
}

func TestTerminalHangupIsTheEndOfOutput(t *testing.T) {
	r := endAtHangup{hungUp{}}
	if _, err := r.Read(nil); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}

type hungUp struct{}

func (hungUp) Read([]byte) (int, error) { return 0, fmt.Errorf("read /dev/ptmx: %w", unix.EIO) }
