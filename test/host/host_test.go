package main_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The tests of this file boot the host. They take minutes and need root, so they run only when asked to.
const wanted = "HUSK_TEST_HOST"

const bootTimeout = "4m"

// program builds the host once for all tests.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "husk-host-test")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "host")
	build := exec.Command("go", "build", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the host: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	status := m.Run()
	if os.Getenv(wanted) != "" {
		if path, err := program(); err == nil {
			os.RemoveAll(filepath.Dir(path))
		}
	}
	os.Exit(status)
}

// host returns the command that boots the host, not yet started.
func host(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	if os.Getenv(wanted) == "" {
		t.Skipf("boots a virtual machine; set %s=1 to run it", wanted)
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skipf("needs QEMU: %v", err)
	}
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	// Killed before the test's own deadline, so that no QEMU is left by a test that hangs.
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, path, append([]string{"-timeout", bootTimeout}, args...)...)
}

type result struct {
	status         int
	stdout, stderr string
}

// boot runs the host to its end.
func boot(t *testing.T, args ...string) result {
	t.Helper()
	cmd := host(t, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func (r result) expect(t *testing.T, status int, parts ...string) {
	t.Helper()
	if r.status != status {
		t.Errorf("status is %d, want %d", r.status, status)
	}
	for _, part := range parts {
		if !strings.Contains(r.stdout, part) {
			t.Errorf("stdout has no %q", part)
		}
	}
	if t.Failed() {
		t.Logf("stdout:\n%s\nstderr:\n%s", r.stdout, r.stderr)
	}
}

func TestStatusAndStreamsOfTheCommandAreTheHosts(t *testing.T) {
	r := boot(t, "-env", "K=V", "-dir", "/usr", "--", "sh", "-c", "pwd; echo $K; echo wrong >&2; exit 42")
	r.expect(t, 42)
	if r.stdout != "/usr\nV\n" || r.stderr != "wrong\n" {
		t.Errorf("stdout is %q, stderr %q", r.stdout, r.stderr)
	}
}

func TestHostHasWhatAContainerRuntimeNeeds(t *testing.T) {
	const script = `set -e
		test -c /dev/kvm; test -c /dev/vhost-vsock; test -c /dev/net/tun; test -c /dev/fuse
		ip -o link show lo | grep -q LOWER_UP || ! command -v ip
		test "$(hostname)" = husk-host
		findmnt -no PROPAGATION / | grep -qx shared
		for d in /run /dev/shm /var/lib/containerd "$TMPDIR"; do stat -fc %T "$d" | grep -qx tmpfs; done
		test -z "$(ls /var/lib/containerd)"
		# an overlay whose upper layer is there, as a snapshotter makes it
		mkdir $TMPDIR/l $TMPDIR/u $TMPDIR/w $TMPDIR/m
		mount -t overlay overlay -o lowerdir=$TMPDIR/l,upperdir=$TMPDIR/u,workdir=$TMPDIR/w $TMPDIR/m
		touch /etc/written-in-the-host
		echo all well`
	r := boot(t, "--", "sh", "-c", script)
	r.expect(t, 0, "all well")
	if _, err := os.Stat("/etc/written-in-the-host"); !os.IsNotExist(err) {
		t.Errorf("the host wrote to the machine: %v", err)
	}
}

func TestKilledCommandIs128AndItsSignal(t *testing.T) {
	boot(t, "--", "sh", "-c", "kill -KILL $$").expect(t, 137)
}

func TestMissingCommandIs127(t *testing.T) {
	r := boot(t, "--", "nosuch")
	r.expect(t, 127)
	if !strings.Contains(r.stderr, `exec: "nosuch": executable file not found in $PATH`) {
		t.Errorf("stderr is %q", r.stderr)
	}
}

func TestMissingWorkingDirectoryIsAnErrorOfTheHost(t *testing.T) {
	r := boot(t, "-dir", "/nosuch", "--", "true")
	r.expect(t, 125)
	if !strings.Contains(r.stderr, "/nosuch") {
		t.Errorf("stderr is %q", r.stderr)
	}
}

func TestOutputIsCompleteThoughABackgroundProcessHoldsIt(t *testing.T) {
	const size = 20 << 20
	r := boot(t, "--", "sh", "-c", fmt.Sprintf("sleep 1000 & head -c %d /dev/urandom >$TMPDIR/x; sha256sum <$TMPDIR/x >&2; cat $TMPDIR/x; exit 3", size))
	if r.status != 3 || len(r.stdout) != size {
		t.Fatalf("status %d with %d bytes; stderr: %s", r.status, len(r.stdout), r.stderr)
	}
	if sum := fmt.Sprintf("%x", sha256.Sum256([]byte(r.stdout))); !strings.HasPrefix(r.stderr, sum) {
		t.Errorf("sha256 is %s here and %s there", sum, r.stderr)
	}
}

func TestStdinIsPassedOnToItsEnd(t *testing.T) {
	const size = 3 << 20
	cmd := host(t, "-interactive", "--", "wc", "-c")
	cmd.Stdin = io.LimitReader(zeros{}, size)
	out, err := cmd.Output()
	if err != nil || strings.TrimSpace(string(out)) != strconv.Itoa(size) {
		t.Errorf("wc says %q, %v", out, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestWritableShareLastsAndReadOnlyOneIsOne(t *testing.T) {
	out, in := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(in, "f"), []byte("from outside\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := boot(t, "-share", out+":out:/mnt/out:rw", "-share", in+":in:/mnt/in", "--",
		"sh", "-c", "echo from inside >/mnt/out/f; cat /mnt/in/f; touch /mnt/in/g 2>/dev/null && echo written")
	r.expect(t, 1, "from outside")
	if data, err := os.ReadFile(filepath.Join(out, "f")); err != nil || string(data) != "from inside\n" {
		t.Errorf("the share has %q, %v", data, err)
	}
}

func TestCgroupLayouts(t *testing.T) {
	for _, init := range []string{"none", "systemd"} {
		for layout, check := range map[string]string{
			"v1": `stat -fc %T /sys/fs/cgroup | grep -qx tmpfs
				for c in memory freezer cpu cpuacct pids systemd; do stat -fc %T /sys/fs/cgroup/$c/ | grep -qx cgroupfs; done
				test ! -e /sys/fs/cgroup/unified`,
			"hybrid": `stat -fc %T /sys/fs/cgroup/memory | grep -qx cgroupfs
				stat -fc %T /sys/fs/cgroup/unified | grep -qx cgroup2fs`,
			"v2": `stat -fc %T /sys/fs/cgroup | grep -qx cgroup2fs
				for c in cpu memory pids; do grep -qw $c /sys/fs/cgroup/cgroup.subtree_control; done`,
		} {
			t.Run(init+"/"+layout, func(t *testing.T) {
				script := "set -e\n" + check + "\ntest \"$(cat /proc/1/comm)\" = " + map[string]string{"none": "init", "systemd": "systemd"}[init]
				if init == "systemd" {
					script += "\ngrep -q system.slice/husk-host.service /proc/self/cgroup\nsystemctl --failed --no-legend | cat" +
						"\nsystemd-run --wait --quiet --property=MemoryMax=64M true"
				}
				r := boot(t, "-init", init, "-cgroup", layout, "--", "sh", "-c", script+"\necho as it should be; exit 42")
				r.expect(t, 42)
				if r.stdout != "as it should be\n" {
					t.Errorf("stdout is %q", r.stdout)
				}
			})
		}
	}
}

func TestWithheldControllerIsADirectoryAndNoCgroup(t *testing.T) {
	r := boot(t, "-cgroup", "v1", "-append", "cgroup_no_v1=freezer", "--", "stat", "-fc", "%T", "/sys/fs/cgroup/freezer", "/sys/fs/cgroup/pids")
	r.expect(t, 0)
	if r.stdout != "tmpfs\ncgroupfs\n" {
		t.Errorf("freezer and pids are %q", r.stdout)
	}
}

func TestTimeoutIs124AndNamesWhatWasRunning(t *testing.T) {
	// The last -timeout counts. It must be longer than a boot.
	r := boot(t, "-timeout", "60s", "--", "sleep", "3333")
	r.expect(t, 124)
	for _, part := range []string{"timed out after 1m0s", "sleep 3333"} {
		if !strings.Contains(r.stderr, part) {
			t.Errorf("stderr has no %q:\n%s", part, r.stderr)
		}
	}
}

func TestDeathOfTheKernelIs125WithItsLastWords(t *testing.T) {
	r := boot(t, "--", "sh", "-c", "echo before; echo c >/proc/sysrq-trigger; sleep 1000")
	r.expect(t, 125, "before")
	if !strings.Contains(r.stderr, "Kernel panic") {
		t.Errorf("stderr is %q", r.stderr)
	}
}

func TestBootThatSystemdGivesUpIs125(t *testing.T) {
	r := boot(t, "-init", "systemd", "-append", "systemd.unit=emergency.target", "--", "true")
	r.expect(t, 125)
	if !strings.Contains(r.stderr, "emergency mode") {
		t.Errorf("stderr is %q", r.stderr)
	}
}

func TestQEMUIsGoneHoweverTheHostEnds(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			cmd := host(t, "--", "sleep", "1000")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var qemu int
			wait(t, "QEMU to start", func() bool { qemu = childOf(t, cmd.Process.Pid); return qemu != 0 })
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err == nil {
				t.Error("the host ended well")
			}
			if got := cmd.ProcessState.ExitCode(); signal == syscall.SIGTERM && got != 143 {
				t.Errorf("status is %d", got)
			}
			wait(t, "QEMU to end", func() bool { return errors.Is(syscall.Kill(qemu, 0), syscall.ESRCH) || isZombie(qemu) })
		})
	}
}

func wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// childOf returns the QEMU that a host has started, or 0.
func childOf(t *testing.T, parent int) int {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		data, err := os.ReadFile(list)
		if err != nil {
			continue
		}
		for _, field := range strings.Fields(string(data)) {
			name, err := os.ReadFile("/proc/" + field + "/comm")
			if pid, atoi := strconv.Atoi(field); err == nil && atoi == nil && strings.HasPrefix(string(name), "qemu") {
				return pid
			}
		}
	}
	return 0
}

// isZombie tells whether only the status of a process is left, for whoever inherits it.
func isZombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(stat), ") Z ")
}
