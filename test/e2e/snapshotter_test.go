package e2e

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/huskvm/husk/test/rig"
)

// needSnapshotter skips the test where containerd has it not, or can't use it here.
func needSnapshotter(t *testing.T, name string) {
	t.Helper()
	for line := range strings.Lines(ctr(t, "plugins", "ls").Stdout) {
		if f := strings.Fields(line); len(f) > 2 && f[1] == name && f[len(f)-1] == "ok" {
			return
		}
	}
	t.Skipf("this containerd has no snapshotter %s on this host", name)
}

// The blockfile snapshotter's root is a file with a file system in it: the guest gets it as a disk.
func TestRootOnADisk(t *testing.T) {
	needSnapshotter(t, "blockfile")
	before := census(t)
	res := ctrRun(t, []string{"--snapshotter", "blockfile"},
		"sh", "-c", "awk '$2 == \"/\" {print $1, $3}' /proc/mounts; echo kept > /file; sync; cat /file; exit 7")
	if res.Status != 7 || !strings.HasPrefix(res.Stdout, "/dev/vd") || !strings.HasSuffix(res.Stdout, " ext4\nkept\n") {
		t.Errorf("%+v", res)
	}
	before.Expect(t)
}

// The erofs snapshotter's layers are images that containerd mounts; the root is an overlay of them.
func TestRootOfErofsLayers(t *testing.T) {
	needSnapshotter(t, "erofs")
	if _, err := exec.LookPath("mkfs.erofs"); err != nil {
		t.Skip("no mkfs.erofs: install erofs-utils")
	}
	before := census(t)
	res := ctrRun(t, []string{"--snapshotter", "erofs"},
		"sh", "-c", "awk '$2 == \"/\" {print $3}' /proc/mounts; echo kept > /etc/file; rm /etc/passwd; ls /etc/passwd 2>&1; cat /etc/file; exit 7")
	if res.Status != 7 || res.Stdout != "virtiofs\nls: /etc/passwd: No such file or directory\nkept\n" {
		t.Errorf("%+v", res)
	}
	before.Expect(t)
}

// onDisk are the flags of a container of a pod whose root is a disk.
func onDisk(kind, pod string) []string {
	return []string{
		"--snapshotter", "blockfile",
		"--annotation", "io.kubernetes.cri.container-type=" + kind, "--annotation", "io.kubernetes.cri.sandbox-id=" + pod,
	}
}

// A pod's containers come with their disks and go with them, one after the other in the same device.
func TestDisksOfAPodComeAndGo(t *testing.T) {
	needSnapshotter(t, "blockfile")
	before := census(t)
	pod := &background{id: newID(t), done: make(chan struct{})}
	flags := append(withConfigFlags(t, configuration("spare_disks = 2\n")), onDisk("sandbox", pod.id)...)
	pod.launch(t, shared.Ctr(t.Context(), rig.RunArgs(pod.id, flags, "sleep", "1000")...))
	pod.awaitStart(t)

	one := start(t, onDisk("container", pod.id), "sleep", "1000")
	for round := range 3 {
		res := ctrRun(t, onDisk("container", pod.id), "sh", "-c",
			"awk '$2 == \"/\" {print $1, $3}' /proc/mounts; ls /file; echo kept > /file; sync; cat /file; exit 7")
		if res.Status != 7 || !strings.HasPrefix(res.Stdout, "/dev/vd") || !strings.HasSuffix(res.Stdout, " ext4\nkept\n") {
			t.Errorf("round %d: %+v", round, res)
		}
	}
	two := start(t, onDisk("container", pod.id), "sleep", "1000")
	if res := ctrRun(t, onDisk("container", pod.id), "true"); res.Status == 0 || !strings.Contains(res.Stderr, "spare_disks") {
		t.Errorf("a third disk: %+v", res)
	}
	for i, c := range []*background{one, two} {
		c.exec(t, "sh", "-c", "dd if=/dev/urandom of=/big bs=1M count=4 2>/dev/null; echo "+c.id+" > /id; sync")
		if got := c.exec(t, "cat", "/id"); got != c.id+"\n" {
			t.Errorf("container %d reads %q", i, got)
		}
	}
	one.end(t)
	two.end(t)
	pod.end(t)
	before.Expect(t)
}
