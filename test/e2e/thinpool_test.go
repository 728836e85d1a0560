package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const pool = "husk-test-pool"

// thinPool makes a pool of the device mapper's for the test, of files. What is left in it at the end must be removable.
func thinPool(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("dmsetup", "targets").CombinedOutput(); err != nil || !strings.Contains(string(out), "thin-pool") {
		t.Skip("this host's kernel has no thin pools (modprobe dm_thin_pool); the KVM test host has")
	}
	if _, err := os.Stat("/run/udev/control"); err != nil {
		t.Setenv("DM_DISABLE_UDEV", "1") // dmsetup makes the devices' files itself then, containerd's too
	}
	const metaSize, dataSize = 4 << 20, 512 << 20
	meta, data := loopDevice(t, "meta", metaSize), loopDevice(t, "data", dataSize)
	output(t, "dmsetup", "create", pool, "--table", fmt.Sprintf("0 %d thin-pool %s %s 128 0 1 skip_block_zeroing", dataSize>>9, meta, data))
	t.Cleanup(func() {
		for _, device := range thinDevices(t) {
			output(t, "dmsetup", "remove", device.name)
		}
		output(t, "dmsetup", "remove", pool)
	})
}

// loopDevice is a file as a block device.
func loopDevice(t *testing.T, name string, size int64) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	device := strings.TrimSpace(output(t, "losetup", "--find", "--show", file))
	t.Cleanup(func() { output(t, "losetup", "--detach", device) })
	return device
}

// thinDevice is one of the pool's, and how many have it open.
type thinDevice struct{ name, open string }

func thinDevices(t *testing.T) (list []thinDevice) {
	t.Helper()
	for line := range strings.Lines(output(t, "dmsetup", "info", "--columns", "--noheadings", "--separator", " ", "-o", "name,open")) {
		if f := strings.Fields(line); len(f) == 2 && strings.HasPrefix(f[0], pool+"-") {
			list = append(list, thinDevice{f[0], f[1]})
		}
	}
	return list
}

// The devmapper snapshotter's root is a block device of the host: the guest gets it as a disk.
func TestRootOnADeviceOfAThinPool(t *testing.T) {
	thinPool(t)
	ownContainerd(t, fmt.Sprintf("[plugins.'io.containerd.snapshotter.v1.devmapper']\npool_name = %q\nroot_path = %q\nbase_image_size = '64MB'\n",
		pool, t.TempDir()))
	needSnapshotter(t, "devmapper")
	before := census(t)
	id, first, second := twice(t, "devmapper", `awk '$2 == "/" {print $1, $3}' /proc/mounts; cat /file 2>/dev/null; echo kept >> /file; ls /srv; exit 7`, 7)
	if !strings.HasPrefix(first, "/dev/vd") || !strings.HasSuffix(first, " ext4\nbad-format\nnot-executable\nscript\n") {
		t.Errorf("%q", first)
	}
	if !strings.Contains(second, " ext4\nkept\nbad-format\n") {
		t.Errorf("the second time %q", second)
	}
	before.Expect(t)
	if own := thinDevices(t); len(own) != 1 || own[0].open != "0" {
		t.Errorf("of the container there should be one device, and nobody has it open: %v", own)
	}

	// What the container wrote is in the next layer, without it having called sync. A commit takes the device away.
	snapshots := func(args ...string) string {
		return ctr(t, append([]string{"snapshots", "--snapshotter", "devmapper"}, args...)...).Stdout
	}
	point := t.TempDir()
	snapshots("commit", "changed", id)
	snapshots("prepare", "next", "changed")
	command := strings.Fields(snapshots("mounts", point, "next")) // mount -t ext4 DEVICE …
	if len(command) < 4 {
		t.Fatalf("mount it by %q", command)
	}
	output(t, "mount", command[3], point)
	kept, err := os.ReadFile(filepath.Join(point, "file"))
	output(t, "umount", point)
	if err != nil || string(kept) != "kept\nkept\n" {
		t.Errorf("the layer's file has %q, %v", kept, err)
	}
	snapshots("rm", "next")
	snapshots("rm", "changed")
	ctr(t, "container", "rm", id)
	// containerd collects what nothing refers to when it gets to it.
	eventually(t, "no device is left", func() bool { return len(thinDevices(t)) == 0 })
}
