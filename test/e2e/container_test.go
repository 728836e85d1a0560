package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/huskvm/husk/vmm/qemu"
)

func TestContainerSeesOnlyItself(t *testing.T) {
	res := ctrRun(t, nil, "sh", "-c", "echo $$; ps | wc -l; hostname; cat /proc/1/comm; ls /run/husk 2>/dev/null; id -u; pwd")
	lines := strings.Split(res.Stdout, "\n")
	if lines[0] != "1" {
		t.Errorf("the workload is not PID 1: %q", res.Stdout)
	}
	if strings.Contains(res.Stdout, "shares") {
		t.Errorf("the container sees the shares: %q", res.Stdout)
	}
}

func TestBindMounts(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("from the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "neighbour"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Run("a directory, both ways", func(t *testing.T) {
		res := ctrRun(t, []string{"--mount", "type=bind,src=" + dir + ",dst=/mnt/dir,options=rbind:rw"},
			"sh", "-c", "cat /mnt/dir/file; echo from the guest > /mnt/dir/back")
		if res.Status != 0 || res.Stdout != "from the host\n" {
			t.Errorf("%+v", res)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "back")); err != nil || string(b) != "from the guest\n" {
			t.Errorf("%q, %v", b, err)
		}
	})
	t.Run("read-only", func(t *testing.T) {
		res := ctrRun(t, []string{"--mount", "type=bind,src=" + dir + ",dst=/mnt/dir,options=rbind:ro"},
			"sh", "-c", "cat /mnt/dir/file && touch /mnt/dir/no")
		if res.Status == 0 || res.Stdout != "from the host\n" || !strings.Contains(res.Stderr, "Read-only file system") {
			t.Errorf("%+v", res)
		}
	})
	t.Run("exactly one file", func(t *testing.T) {
		res := ctrRun(t, []string{"--mount", "type=bind,src=" + file + ",dst=/mnt/one,options=rbind:rw"},
			"sh", "-c", "cat /mnt/one; ls /mnt; mount | grep /mnt/one | grep -c neighbour")
		if !strings.HasPrefix(res.Stdout, "from the host\none\n") {
			t.Errorf("%+v", res)
		}
	})
	t.Run("a source that is not there", func(t *testing.T) {
		before := census(t)
		res := ctrRun(t, []string{"--mount", "type=bind,src=/no/such/dir,dst=/mnt/dir,options=rbind:rw"}, "true")
		if res.Status == 0 || !strings.Contains(res.Stderr, "/no/such/dir") {
			t.Errorf("%+v", res)
		}
		before.Expect(t)
	})
	t.Run("tmpfs", func(t *testing.T) {
		res := ctrRun(t, []string{"--mount", "type=tmpfs,src=tmpfs,dst=/mnt/t,options=size=1m:mode=700"},
			"sh", "-c", "df -k /mnt/t | tail -1 | awk '{print $2}'; stat -c %a /mnt/t")
		if res.Stdout != "1024\n700\n" {
			t.Errorf("%+v", res)
		}
	})
}

// processors is what nproc says in a guest that is to have n.
func processors(t *testing.T, n int) string {
	t.Helper()
	if *backend == "qemu" {
		q, err := qemu.Find(runtime.GOARCH, "")
		if err != nil {
			t.Fatal(err)
		}
		n = (&qemu.Config{Binary: q, VCPUs: n}).Processors()
	}
	return fmt.Sprintln(n)
}

func TestProcessAttributes(t *testing.T) {
	for _, c := range []struct {
		name  string
		flags []string
		args  []string
		want  string
	}{
		{"user", []string{"--user", "1000:1000"}, []string{"id"}, "uid=1000(user) gid=1000(user)"},
		{"user by name", []string{"--user", "user"}, []string{"id"}, "uid=1000(user) gid=1000(user)"},
		{"environment", []string{"--env", "HUSK=yes"}, []string{"sh", "-c", "echo $HUSK"}, "yes\n"},
		{"working directory", []string{"--cwd", "/home/user"}, []string{"pwd"}, "/home/user\n"},
		{"read-only root", []string{"--read-only"}, []string{"sh", "-c", "touch /x 2>&1"}, "Read-only file system"},
		{"no new privileges by default", nil, []string{"grep", "NoNewPrivs", "/proc/self/status"}, "1"},
		{"writable root", nil, []string{"sh", "-c", "echo w > /etc/new && cat /etc/new"}, "w\n"},
		{"annotation sizes the VM", []string{"--annotation", "io.husk.vcpus=2"}, []string{"nproc"}, processors(t, 2)},
		{"masked path", nil, []string{"sh", "-c", "wc -c < /proc/timer_list"}, "0\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if len(c.flags) > 0 {
				needFlag(t, c.flags[0])
			}
			if res := ctrRun(t, c.flags, c.args...); !strings.Contains(res.Stdout, c.want) {
				t.Errorf("%+v, want %q", res, c.want)
			}
		})
	}
}

func TestPauseAndResume(t *testing.T) {
	b := start(t, nil, "sh", "-c", "sleep 1000 & wait")
	ctr(t, "task", "pause", b.id)
	if got := taskStatus(t, b.id); got != "PAUSED" {
		t.Errorf("paused: %s", got)
	}
	ctr(t, "task", "resume", b.id)
	if got := taskStatus(t, b.id); got != "RUNNING" {
		t.Errorf("resumed: %s", got)
	}
	if res := ctr(t, "task", "exec", "--exec-id", "after", b.id, "echo", "alive"); res.Stdout != "alive\n" {
		t.Errorf("%+v", res)
	}
}

func TestMetricsAndProcessesOfATask(t *testing.T) {
	b := start(t, nil, "sleep", "1000")
	if out := ctr(t, "task", "metrics", b.id).Stdout; !strings.Contains(out, "memory.usage") && !strings.Contains(out, "memory.") {
		t.Errorf("metrics: %s", out)
	}
	if out := ctr(t, "task", "ps", b.id).Stdout; len(strings.Split(strings.TrimSpace(out), "\n")) != 2 {
		t.Errorf("processes: %s", out)
	}
}

func TestCheckpointSaysThatItIsNotThere(t *testing.T) {
	b := start(t, nil, "sleep", "1000")
	out, err := shared.Ctr(testContext(t), "task", "checkpoint", b.id).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "not implemented") && !strings.Contains(string(out), "unimplemented") {
		t.Errorf("%v: %s", err, out)
	}
}
