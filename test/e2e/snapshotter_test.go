package e2e

import (
	"os/exec"
	"strings"
	"testing"
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
