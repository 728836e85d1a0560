package cri

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The kubelet runs a preStop hook by exec, takes its time from the grace period, and then stops the container.
func TestAPreStopHookRunsBeforeTheStop(t *testing.T) {
	p := newPod(t)
	c := p.start(shell("main", "trap 'echo asked after $(cat /hook); exit 9' TERM; echo ready; while :; do sleep 1000 & wait $!; done"))
	c.says("ready")
	if stdout, stderr, status := c.exec("sh", "-c", "sleep 1; echo the hook > /hook; echo hooked"); stdout != "hooked\n" || status != 0 {
		t.Fatalf("%d: %q %q", status, stdout, stderr)
	}
	begin := time.Now()
	c.stop(60 * time.Second)
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("the stop took %s: the grace period was waited for", took)
	}
	c.expectExit(9)
	c.says("asked after the hook")
}

// A probe that takes too long is ended, and its failure is one of time. What it has started does not hold the answer up.
func TestProbes(t *testing.T) {
	p := newPod(t)
	c := p.start(shell("main", idle))
	probe := func(seconds int64, script string) (*cri.ExecSyncResponse, error) {
		return runtime.ExecSync(testContext(t), &cri.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"sh", "-c", script}, Timeout: seconds})
	}
	for range 3 {
		begin := time.Now()
		if _, err := probe(1, "echo some output; exec sleep 777"); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("error %v", err)
		}
		if took := time.Since(begin); took > 20*time.Second {
			t.Errorf("a probe of a second took %s", took)
		}
	}
	c.expectOutput("0", "ps | grep -c '[s]leep 777' || true")
	for i := range 20 {
		r, err := probe(60, fmt.Sprintf("echo %d; exit %d", i, i%2))
		if err != nil || string(r.Stdout) != fmt.Sprintln(i) || r.ExitCode != int32(i%2) {
			t.Errorf("probe %d: %v, %v", i, r, err)
		}
	}
	if _, err := probe(1, "exec sleep 777"); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("error %v", err)
	}
	c.expectOutput("0", "ps | grep -c '[s]leep 777' || true")
}

// Files that the kubelet makes for each container, and what it reads again.
func TestFilesOfTheKubelet(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o666), os.Chmod(path, 0o666)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	message := file("message", "")
	p := newPod(t)
	config := shell("main", "while read reason; do echo broken by $reason > /dev/termination-log; exit 3; done")
	config.Stdin = true
	config.Mounts = []*cri.Mount{
		{HostPath: file("hosts", "127.0.0.1 localhost\n10.88.0.1 alias.test other.test\n"), ContainerPath: "/etc/hosts"},
		{HostPath: message, ContainerPath: "/dev/termination-log"},
	}
	config.Linux.SecurityContext.RunAsUser = &cri.Int64Value{Value: 1000}
	config.Linux.SecurityContext.ReadonlyRootfs = true
	c := p.start(config)
	c.expectOutput("10.88.0.1", "ping -c 1 -W 30 other.test | sed -n 's/^PING other.test (\\(.*\\)).*/\\1/p'")
	c.attach().send(channelStdin, "a word\n")
	c.expectExit(3)
	if data, err := os.ReadFile(message); err != nil || string(data) != "broken by a word\n" {
		t.Errorf("the termination message is %q, %v", data, err)
	}
}

// fsGroup: the kubelet gives a volume to a group, and the container's process that group.
func TestAVolumeOfAGroup(t *testing.T) {
	volume := t.TempDir()
	if err := os.Chown(volume, 0, 3000); err != nil {
		t.Fatal(err)
	}
	if err := unix.Chmod(volume, 0o2770); err != nil {
		t.Fatal(err)
	}
	p := newPod(t)
	with := func(name string, groups ...int64) *container {
		config := shell(name, idle)
		config.Mounts = []*cri.Mount{{HostPath: volume, ContainerPath: "/volume"}}
		s := config.Linux.SecurityContext
		s.RunAsUser, s.RunAsGroup, s.SupplementalGroups = &cri.Int64Value{Value: 1000}, &cri.Int64Value{Value: 1000}, groups
		s.ReadonlyRootfs = true
		return p.start(config)
	}
	member, stranger := with("member", 3000, 4000), with("stranger")
	member.expectOutput("1000 3000", "echo hello > /volume/file && stat -c '%u %g' /volume/file")
	stranger.expectOutput("refused", "cat /volume/file 2>/dev/null || echo refused")
	member.expectOutput("refused", "echo x 2>/dev/null > /file || echo refused")
	member.expectOutput("3000 4000", "id -G | tr ' ' '\\n' | grep -e 3000 -e 4000 | sort | tr '\\n' ' '")
	var s unix.Stat_t
	if err := unix.Stat(filepath.Join(volume, "file"), &s); err != nil || s.Uid != 1000 || s.Gid != 3000 {
		t.Errorf("on the host: user %d, group %d, %v", s.Uid, s.Gid, err)
	}
}
