package mounts

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/api/types"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// What the engine mounts after the shim has its own namespace, and the host does not hand on.
func TestMountsOfTheEngineAreBroughtAndGoAway(t *testing.T) {
	point := filepath.Join(t.TempDir(), "point")
	for _, dir := range []string{point, point + "/inner"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	privately(t, func() {
		engine, err := os.Open("/proc/thread-self/ns/mnt")
		if err != nil {
			t.Error(err)
			return
		}
		defer engine.Close()
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			t.Error(err)
			return
		}
		own, err := os.Open("/proc/thread-self/ns/mnt")
		if err != nil {
			t.Error(err)
			return
		}
		defer own.Close()
		if err := mountIn(engine, own, point); err != nil {
			t.Error(err)
			return
		}
		file := filepath.Join(point, "sub/file")
		if _, err := os.Stat(file); err == nil {
			t.Error("the mount has arrived by itself")
		}
		b, err := Engine{Namespace: engine}.Bring([]string{filepath.Join(point, "sub"), file, "/no/such", "/"})
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := os.Stat(file); err != nil || len(b.targets) != 1 {
			t.Errorf("%v, brought %v", err, b.targets)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(file); err == nil {
			t.Error("the mount is still here")
		}
	})
}

// mountIn mounts a tmpfs with a file in it in another namespace than the thread's.
func mountIn(other, own *os.File, point string) error {
	if err := unix.Setns(int(other.Fd()), unix.CLONE_NEWNS); err != nil {
		return err
	}
	err := unix.Mount("tmpfs", point, "tmpfs", 0, "")
	if err == nil {
		err = os.MkdirAll(point+"/sub", 0o755)
	}
	if err == nil {
		err = os.WriteFile(point+"/sub/file", nil, 0o644)
	}
	if err != nil {
		return err
	}
	return unix.Setns(int(own.Fd()), unix.CLONE_NEWNS)
}

func TestSourcesOfARoot(t *testing.T) {
	got := Sources([]*types.Mount{
		{Type: "bind", Source: "/bound", Options: []string{"rbind"}},
		{Type: "overlay", Source: "overlay", Options: []string{"index=off", "workdir=/w", "upperdir=/u", "lowerdir=/a:/b::/c"}},
	})
	if diff := cmp.Diff([]string{"/bound", "/w", "/u", "/a", "/b", "/c"}, got); diff != "" {
		t.Error(diff)
	}
}
