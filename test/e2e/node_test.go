package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/test/rig"
)

const nodeImage = "localhost/husk:latest"

// nodeHost is a directory that a container of husk's image takes for its node's root.
type nodeHost struct {
	t    *testing.T
	root string
}

func newNodeHost(t *testing.T) *nodeHost {
	t.Helper()
	if *nodeTar == "" {
		t.Skip("no image of husk: make bin/husk-image.tar, and give -node-image")
	}
	n := &nodeHost{t, t.TempDir()}
	for _, dir := range []string{"etc/containerd", "run"} {
		if err := os.MkdirAll(n.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	config := "version = 2\n"
	if *containerd != "" {
		config = "version = 3\nimports = ['conf.d/*.toml']\n"
	}
	if err := os.WriteFile(n.path("etc/containerd/config.toml"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	// There it sees what runs; and not whether systemd does, which is not to be asked for anything.
	if err := os.MkdirAll("/run/husk", 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(n.path("run/husk"), 0o711); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("/run/husk", n.path("run/husk"), "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(n.path("run/husk"), unix.MNT_DETACH) })
	ctr(t, "image", "import", *nodeTar)
	return n
}

func (n *nodeHost) path(elem ...string) string {
	return filepath.Join(append([]string{n.root}, elem...)...)
}

// husk runs a command of the image as the DaemonSet does, and not for ever.
func (n *nodeHost) husk(args ...string) rig.Result {
	n.t.Helper()
	run := []string{"run", "--rm", "--runtime", "io.containerd.runc.v2", "--privileged", "--with-ns", "pid:/proc/1/ns/pid",
		"--mount", "type=bind,src=" + n.root + ",dst=/host,options=rbind:rw"}
	res, err := rig.Exec(shared.Ctr(testContext(n.t), append(append(run, nodeImage, newID(n.t), "/husk/husk"), args...)...))
	if err != nil {
		n.t.Fatal(err)
	}
	return res
}

func (n *nodeHost) install(more ...string) {
	n.t.Helper()
	if res := n.husk(append([]string{"install", "-root", "/host"}, more...)...); res.Status != 0 {
		n.t.Fatalf("install: %s%s", res.Stdout, res.Stderr)
	}
}

func (n *nodeHost) versions() []string {
	dirs, _ := filepath.Glob(n.path("usr/local/lib/husk/*/husk-initramfs"))
	return dirs
}

// run are ctr's arguments for a container of what is installed.
func (n *nodeHost) run(flags ...string) []string {
	return append([]string{"run", "--runtime", n.path("usr/local/bin/containerd-shim-husk-v2"),
		"--runtime-config-path", n.path("husk.toml")}, flags...)
}

// What the DaemonSet does on a node: it installs, upgrades under a running container, does not remove what runs, and
// removes in the end.
func TestTheImageInstallsUpgradesAndRemovesHusk(t *testing.T) {
	before := census(t)
	n := newNodeHost(t)
	n.install()
	dump := exec.Command("containerd", "--config", n.path("etc/containerd/config.toml"), "config", "dump")
	if *containerd != "" {
		dump.Path = filepath.Join(*containerd, "containerd")
	}
	if out, err := dump.CombinedOutput(); err != nil || !strings.Contains(string(out), "runtimes.husk]") || !strings.Contains(string(out), "runtimes.runc]") {
		t.Errorf("containerd makes of its configuration: %v\n%s", err, out)
	}
	if err := os.WriteFile(n.path("husk.toml"), []byte(configuration("")), 0o644); err != nil {
		t.Fatal(err)
	}
	id := newID(t)
	ctr(t, n.run("--detach", rig.Image, id, "sh", "-c", "trap 'exit' TERM; while :; do sleep 0.1; done")...)

	if res := n.husk("remove", "-root", "/host"); res.Status != 1 || !strings.Contains(res.Stderr, id) {
		t.Errorf("removal under a running container: status %d, %s%s", res.Status, res.Stdout, res.Stderr)
	}
	// An upgrade: the same with another initramfs, by what follows the end of its archive.
	old := filepath.Dir(n.versions()[0])
	output(t, "cp", "-r", old, n.path("next"))
	f, err := os.OpenFile(n.path("next/husk-initramfs"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(make([]byte, 512))
	if err != nil || f.Close() != nil {
		t.Fatal(err)
	}
	n.install("-from", "/host/next")
	if v := n.versions(); len(v) != 2 {
		t.Errorf("versions %q", v)
	}
	if res := ctr(t, "task", "exec", "--exec-id", "after", id, "echo", "alive"); res.Stdout != "alive\n" {
		t.Errorf("%+v", res)
	}
	res, err := rig.Exec(shared.Ctr(testContext(t), n.run("--rm", rig.Image, newID(t), "echo", "new")...))
	if err != nil || res.Stdout != "new\n" {
		t.Errorf("a container of the next version: %+v, %v", res, err)
	}
	ctr(t, "task", "kill", "-s", "SIGTERM", id)
	eventually(t, "it has ended", func() bool { return taskStatus(t, id) == "STOPPED" })
	ctr(t, "task", "delete", id)
	ctr(t, "container", "rm", id)
	n.install("-from", "/host/next")
	if v := n.versions(); len(v) != 1 || filepath.Dir(v[0]) == old {
		t.Errorf("versions %q", v)
	}
	if res := n.husk("remove", "-root", "/host", "-wait"); res.Status != 0 {
		t.Errorf("removal: %s%s", res.Stdout, res.Stderr)
	}
	for _, path := range []string{"usr/local/bin/husk", "usr/local/lib/husk", "etc/containerd/conf.d/husk.toml"} {
		if _, err := os.Lstat(n.path(path)); err == nil {
			t.Errorf("%s is left", path)
		}
	}
	before.Expect(t)
}
