package cri

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestVolumesOfAPod(t *testing.T) {
	host, disk, memory, configmap := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	if err := unix.Mount("tmpfs", memory, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(memory, unix.MNT_DETACH) })
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// As the kubelet's atomic writer does: files are links into ..data, a link that is replaced by a rename.
	project := func(version, text string) {
		t.Helper()
		write(filepath.Join(configmap, version, "key"), text)
		link := filepath.Join(configmap, "..data_tmp")
		if err := os.Symlink(version, link); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(link, filepath.Join(configmap, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(host, "file"), "of the host")
	write(filepath.Join(host, "secret"), "not mounted")
	project("..1", "old")
	if err := os.Symlink("..data/key", filepath.Join(configmap, "key")); err != nil {
		t.Fatal(err)
	}

	p := newPod(t)
	with := func(name string) *container {
		config := shell(name, idle)
		config.Mounts = []*cri.Mount{
			{HostPath: filepath.Join(host, "file"), ContainerPath: "/file", Readonly: true},
			{HostPath: disk, ContainerPath: "/disk"},
			{HostPath: memory, ContainerPath: "/memory"},
			{HostPath: configmap, ContainerPath: "/config", Readonly: true},
		}
		return p.start(config)
	}
	one, two := with("one"), with("two")
	one.expectOutput("of the host", "cat /file")
	one.expectOutput("refused", "echo x 2>/dev/null > /file || echo refused")
	for _, dir := range []string{"/disk", "/memory"} {
		one.expectOutput("", "echo shared > "+dir+"/x")
		two.expectOutput("shared", "cat "+dir+"/x")
		one.expectOutput("", "echo more >> "+dir+"/x; mv "+dir+"/x "+dir+"/y")
		two.expectOutput("shared\nmore", "cat "+dir+"/y")
	}
	one.expectOutput("old", "cat /config/key")
	project("..2", "new")
	for _, c := range []*container{one, two} {
		eventually(t, "the volume is updated", func() bool {
			stdout, _, _ := c.exec("cat", "/config/key")
			return stdout == "new"
		})
	}
	if data, err := os.ReadFile(filepath.Join(disk, "y")); err != nil || string(data) != "shared\nmore\n" {
		t.Errorf("on the host: %q, %v", data, err)
	}
	// The share goes with the container, the volume stays.
	one.stop(0)
	one.remove()
	two.expectOutput("shared\nmore", "cat /disk/y")
}

// The kubelet mounts a subPath when the container comes, and the pod's VM is there already.
func TestAVolumeMountedAfterThePodsStart(t *testing.T) {
	volume, target := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(volume, "file"), []byte("of the volume"), 0o644); err != nil {
		t.Fatal(err)
	}
	p := newPod(t)
	p.start(shell("first", idle))
	if err := unix.Mount(volume, target, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
	config := shell("late", idle)
	config.Mounts = []*cri.Mount{{HostPath: target, ContainerPath: "/volume"}}
	c := p.start(config)
	c.expectOutput("of the volume", "cat /volume/file")
	// It is the host's to unmount when the container is gone.
	c.stop(0)
	c.remove()
	if err := unix.Unmount(target, 0); err != nil {
		t.Error(err)
	}
}
