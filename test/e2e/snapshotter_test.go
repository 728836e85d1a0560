package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/huskvm/husk/test/rig"
)

// ownContainerd runs another containerd in the shared one's place until the test ends: one with these tables in its
// configuration. Its directory is below the shared one's, where a census looks.
func ownContainerd(t *testing.T, tables string) {
	t.Helper()
	before := shared
	dir, err := os.MkdirTemp(before.Dir(), "own")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	own, err := rig.Start(context.Background(), rig.Config{
		Containerd: *containerd, Bin: *bin, ImageTar: *image, Dir: dir, HuskConfig: configuration(""), Plugins: tables,
	})
	if err != nil {
		t.Fatal(err)
	}
	shared = own
	t.Cleanup(func() {
		if t.Failed() {
			tail, _ := own.LogTail(60)
			t.Logf("the last of its containerd's log\n%s", tail)
		}
		ctr(t, "image", "rm", "--sync", rig.Image)
		shared = before
		if err := own.Stop(); err != nil {
			t.Errorf("stop containerd: %v", err)
		}
	})
}

// twice runs a container of a snapshotter to its end, and once more on the same snapshot; what it printed each time. The
// container stays.
func twice(t *testing.T, snapshotter, script string, status int) (id, first, second string) {
	t.Helper()
	id = newID(t)
	run := rig.RunArgs(id, []string{"--snapshotter", snapshotter}, "sh", "-c", script)
	run = slices.DeleteFunc(run, func(word string) bool { return word == "--rm" })
	t.Cleanup(func() { _ = shared.Ctr(context.Background(), "container", "rm", id).Run() })
	var out []string
	for _, args := range [][]string{run, {"task", "start", id}} {
		res, err := rig.Exec(shared.Ctr(testContext(t), args...))
		if err != nil {
			t.Fatal(err)
		}
		if res.Status != status {
			t.Fatalf("ctr %s: %+v", strings.Join(args, " "), res)
		}
		out = append(out, res.Stdout)
	}
	return id, out[0], out[1]
}

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

// What a container writes is in a file system of the size that is asked for.
func TestRootOfErofsLayersAndADisk(t *testing.T) {
	erofsMode(t, "default_size = '32MiB'", "No space left on device\n")
}

func TestRootOfErofsLayersThatAreImmutable(t *testing.T) {
	erofsMode(t, "set_immutable = true", "")
}

func TestRootOfVerifiedErofsLayers(t *testing.T) {
	erofsMode(t, fmt.Sprintf("enable_fsverity = true\nroot_path = %q", verityDisk(t)), "")
}

// erofsMode runs a container on the erofs snapshotter with a setting. It says why it can't write 40 MiB, or nothing.
func erofsMode(t *testing.T, setting, why string) {
	t.Helper()
	needSnapshotter(t, "erofs")
	help, err := exec.Command("mkfs.erofs", "--help").CombinedOutput()
	if err != nil {
		t.Skipf("no mkfs.erofs: install erofs-utils (%v)", err)
	}
	tables := "[plugins.'io.containerd.snapshotter.v1.erofs']\n" + setting + "\n"
	// From version 1.7 on it makes images of layers as they are. Others containerd unpacks before.
	if strings.Contains(string(help), "--tar=") {
		tables += "[plugins.'io.containerd.service.v1.diff-service']\ndefault = ['erofs', 'walking']\n"
	}
	dir := shared.Dir()
	ownContainerd(t, tables)
	before := census(t)
	id, first, second := twice(t, "erofs", `awk '$2 == "/" {print $3}' /proc/mounts; echo /srv/*; cat /etc/passwd /etc/file 2>/dev/null | wc -l
		echo kept >> /etc/file; rm -f /etc/passwd; dd if=/dev/zero of=/large bs=1M count=40 2>&1 | grep -o 'No space.*'; rm /large; exit 7`, 7)
	if want := "virtiofs\n/srv/bad-format /srv/not-executable /srv/script\n2\n" + why; first != want {
		t.Errorf("%q, not %q", first, want)
	}
	if want := "virtiofs\n/srv/bad-format /srv/not-executable /srv/script\n1\n" + why; second != want {
		t.Errorf("the second time %q, not %q", second, want)
	}
	ctr(t, "container", "rm", id)
	before.Expect(t)
	eventually(t, "no loop device is left", func() bool {
		return !strings.Contains(output(t, "losetup", "--noheadings", "--output", "BACK-FILE"), dir)
	})
}

// verityDisk is a directory on a file system that has fs-verity.
func verityDisk(t *testing.T) (dir string) {
	t.Helper()
	if _, err := os.Stat("/sys/fs/ext4/features/verity"); err != nil {
		t.Skip("this host's ext4 has no fs-verity; the KVM test host's has")
	}
	device := loopDevice(t, "verity", 64<<20)
	output(t, "mkfs.ext4", "-q", "-b", "4096", "-O", "verity", device)
	dir, err := os.MkdirTemp(shared.Dir(), "verity")
	if err != nil {
		t.Fatal(err)
	}
	output(t, "mount", device, dir)
	t.Cleanup(func() {
		output(t, "umount", dir)
		output(t, "rmdir", dir)
	})
	return dir
}
