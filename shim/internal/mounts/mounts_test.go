package mounts

import (
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/api/types"
	"golang.org/x/sys/unix"
)

// privately gives the test a mount namespace of its own, on a thread that ends with it.
func privately(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	done := make(chan error)
	go func() {
		defer close(done)
		lockThread()
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
			done <- err
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			done <- err
			return
		}
		f()
	}()
	if err := <-done; errors.Is(err, unix.EPERM) {
		t.Skip("no mount namespaces here")
	} else if err != nil {
		t.Fatal(err)
	}
}

func TestWithoutMountsTheRootIsWhereTheSpecSays(t *testing.T) {
	dir := t.TempDir()
	root, err := OpenRoot(nil, "/nonexistent", dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if root.Disk != nil || !sameFile(t, root.File, dir) {
		t.Error("another root was opened")
	}
}

func sameFile(t *testing.T, f *os.File, path string) bool {
	t.Helper()
	a, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return os.SameFile(a, b)
}

func TestABindRootIsMountedAndGoesAway(t *testing.T) {
	dir := t.TempDir()
	source, target := filepath.Join(dir, "source"), filepath.Join(dir, "target")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	privately(t, func() {
		root, err := OpenRoot([]*types.Mount{{Type: "bind", Source: source, Options: []string{"rbind"}}}, target, "")
		if err != nil {
			t.Error(err)
			return
		}
		if !sameFile(t, root.File, source) {
			t.Error("the source is not at the target")
		}
		if err := root.Close(); err != nil {
			t.Error(err)
		}
		if err := os.Remove(target); err != nil {
			t.Errorf("still mounted: %v", err)
		}
	})
}

func TestARootThatDoesNotMountIsNamedAndLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	privately(t, func() {
		for _, test := range []struct {
			mounts []*types.Mount
			want   []string
		}{
			{[]*types.Mount{{Type: "nosuchfs", Source: "x"}}, []string{"nosuchfs", "modprobe", "snapshotter"}},
			{[]*types.Mount{{Type: "bind", Source: "/nonexistent/s", Options: []string{"bind"}}}, []string{"/nonexistent/s", "no such file"}},
			{[]*types.Mount{
				{Type: "bind", Source: dir, Options: []string{"bind"}},
				{Type: "bind", Source: "/nonexistent/s", Options: []string{"bind"}},
			}, []string{"/nonexistent/s"}},
			{[]*types.Mount{{Type: "ext4", Source: "/nonexistent/d"}}, []string{"/nonexistent/d", "disk"}},
			{[]*types.Mount{{Type: "ext4", Source: dir}}, []string{dir}},
			{[]*types.Mount{
				{Type: "bind", Source: dir, Options: []string{"bind"}},
				{Type: "format/mkdir/bind", Source: "{{ mount 0 }}/upper"},
			}, []string{"format/mkdir/bind", "mount manager", "root_path"}},
			{[]*types.Mount{{Type: "erofs", Source: dir, Options: []string{"X-containerd.dmverity=/x"}}}, []string{"dmverity", "mount manager"}},
		} {
			_, err := OpenRoot(test.mounts, target, "")
			if err == nil {
				t.Errorf("%v is mounted", test.mounts)
				continue
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
			if err := os.Remove(target); err != nil && !os.IsNotExist(err) {
				t.Errorf("still mounted: %v", err)
			}
		}
	})
}

func TestADisksFileIsTheGuestsToMount(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		mount    *types.Mount
		readOnly bool
		options  string
	}{
		{&types.Mount{Type: "ext4", Source: image, Options: []string{"loop", "rw"}}, false, "rw"},
		{&types.Mount{Type: "ext4", Source: image, Options: []string{"loop", "ro", "noatime"}}, true, "ro,noatime"},
		{&types.Mount{Type: "erofs", Source: image, Options: []string{"loop"}}, true, ""},
	} {
		root, err := OpenRoot([]*types.Mount{test.mount}, "", "")
		if err != nil {
			t.Fatal(err)
		}
		if root.Disk == nil || root.Disk.FSType != test.mount.Type || root.Disk.ReadOnly != test.readOnly ||
			strings.Join(root.Disk.Options, ",") != test.options {
			t.Errorf("%v: %+v", test.mount, root.Disk)
		}
		if err := root.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := OpenRoot([]*types.Mount{{Type: "erofs", Source: image, Options: []string{"device=/x"}}}, "", ""); err == nil {
		t.Error("a second device is ignored")
	}
}

func TestAMissingBindSourceIsNamed(t *testing.T) {
	_, err := OpenSource("/nonexistent/source", true)
	if err == nil || !strings.Contains(err.Error(), "/nonexistent/source") || !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("error %v", err)
	}
}

func TestSocketsAndFifosAreSources(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := OpenSource(fifo, false)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

// program writes an ELF header for machine.
func program(t *testing.T, path string, machine elf.Machine) {
	t.Helper()
	header := make([]byte, 64)
	copy(header, elf.ELFMAG)
	header[elf.EI_CLASS], header[elf.EI_DATA] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB)
	header[18], header[19] = byte(machine), byte(machine>>8)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, header, 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestAForeignImageIsRefusedByItsArchitecture(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	own, err := elf.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	own.Close()
	dir := t.TempDir()
	program(t, filepath.Join(dir, "bin/foreign"), elf.EM_MIPS)
	program(t, filepath.Join(dir, "usr/bin/own"), own.Machine)
	for link, to := range map[string]string{"bin/link": "/bin/foreign", "bin/out": "../../../../../../../../bin/sh", "bin/script": ""} {
		path := filepath.Join(dir, link)
		if to == "" {
			err = os.WriteFile(path, []byte("#!/bin/sh\necho this is a script\n"), 0o755)
		} else {
			err = os.Symlink(to, path)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := openPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	env := []string{"HOME=/", "PATH=/nowhere:/usr/bin:/bin"}
	for _, test := range []struct {
		arg     string
		foreign bool
	}{
		{"own", false}, {"/usr/bin/own", false}, {"foreign", true}, {"/bin/foreign", true}, {"bin/foreign", true},
		{"link", true}, {"out", false}, {"script", false}, {"absent", false}, {"/bin", false},
	} {
		err := CheckArchitecture(root, []string{test.arg}, env, "/")
		if (err != nil) != test.foreign {
			t.Errorf("%s: %v", test.arg, err)
		}
		if err != nil && !strings.Contains(err.Error(), "mips") {
			t.Errorf("%s: error %q does not name the architecture", test.arg, err)
		}
	}
}
