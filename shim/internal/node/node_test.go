package node

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/shim/internal/rundir"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(text), 0o755))
}

func text(t *testing.T, path string) string {
	t.Helper()
	data, err := read(path)
	must(t, err)
	return string(data)
}

// build is a directory with programs as a build leaves them, which say what version they are.
func build(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range programs {
		write(t, filepath.Join(dir, name), "#!/bin/sh\necho "+name+" "+version+"\n")
	}
	return dir
}

// host is a node whose root is a directory with files; there is containerd.
func host(t *testing.T, files map[string]string) *Node {
	t.Helper()
	n := &Node{Root: t.TempDir(), Out: t.Output()}
	must(t, os.MkdirAll(n.path("etc/containerd"), 0o755))
	for path, content := range files {
		write(t, n.path(path), content)
	}
	return n
}

// tree lists the files of a host, with what links point at.
func (n *Node) tree(t *testing.T) (list []string) {
	t.Helper()
	must(t, filepath.WalkDir(n.Root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		entry := strings.TrimPrefix(path, n.Root)
		if target, err := os.Readlink(path); err == nil {
			entry += " -> " + target
		}
		list = append(list, entry)
		return nil
	}))
	return list
}

func TestInstallAndRemove(t *testing.T) {
	n := host(t, map[string]string{"usr/bin/crio": "", "etc/containerd/config.toml": "version = 2\n"})
	before := n.tree(t)
	from := build(t, "1")
	must(t, n.Install(from))
	out, err := exec.Command(n.path("usr/local/bin", shim)).Output()
	if err != nil || string(out) != shim+" 1\n" {
		t.Errorf("%q %v", out, err)
	}
	// All of a version is in one directory, where the shim looks first.
	real, err := filepath.EvalSymlinks(n.path("usr/local/bin", shim))
	must(t, err)
	for _, name := range programs {
		if got := text(t, filepath.Join(filepath.Dir(real), name)); !strings.Contains(got, name+" 1") {
			t.Errorf("%s is %q", name, got)
		}
	}
	if got := text(t, n.path("etc/crio/crio.conf.d/50-husk.conf")); !strings.Contains(got, "[crio.runtime.runtimes.husk]") {
		t.Errorf("CRI-O has %q", got)
	}
	after, config := n.tree(t), text(t, n.path(containerdConfig))
	must(t, n.Install(from))
	if again := n.tree(t); strings.Join(again, "\n") != strings.Join(after, "\n") || text(t, n.path(containerdConfig)) != config {
		t.Errorf("once more:\n%s", strings.Join(again, "\n"))
	}
	must(t, n.Remove())
	must(t, n.Remove())
	if left := n.tree(t); strings.Join(left, "\n") != strings.Join(before, "\n") || text(t, n.path(containerdConfig)) != "version = 2\n" {
		t.Errorf("left:\n%s\n%s", strings.Join(left, "\n"), text(t, n.path(containerdConfig)))
	}
}

func TestInstallFromWhereMakeInstallPutsIt(t *testing.T) {
	from := t.TempDir()
	for name, dir := range map[string]string{shim: "bin", "husk": "bin", "husk-vmm": "lib/husk", "husk-net": "lib/husk", "husk-kernel": "share/husk", "husk-initramfs": "share/husk"} {
		write(t, filepath.Join(from, dir, name), name)
	}
	n := host(t, nil)
	must(t, n.Install(filepath.Join(from, "bin")))
	must(t, os.Remove(filepath.Join(from, "share/husk/husk-kernel")))
	if err := n.Install(filepath.Join(from, "bin")); err == nil || !strings.Contains(err.Error(), "husk-kernel is not in") {
		t.Errorf("without a kernel: %v", err)
	}
}

func TestAnUpgradeLeavesWhatRunsAlone(t *testing.T) {
	old := build(t, "1")
	sleep, err := exec.LookPath("sleep")
	must(t, err)
	data, err := os.ReadFile(sleep)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(old, shim), data, 0o755))
	n := host(t, nil)
	must(t, n.Install(old))
	running := exec.Command(n.path("usr/local/bin", shim), "1000")
	running.Args[0] = "sleep" // should it be busybox
	must(t, running.Start())
	defer func() { _ = running.Process.Kill() }()

	versions := func(want int) {
		t.Helper()
		if dirs, err := n.versions(); err != nil || len(dirs) != want {
			t.Errorf("%d versions, %v; want %d", len(dirs), err, want)
		}
	}
	must(t, n.Install(build(t, "2")))
	versions(2)
	if out, err := exec.Command(n.path("usr/local/bin/husk")).Output(); err != nil || string(out) != "husk 2\n" {
		t.Errorf("%q %v", out, err)
	}
	must(t, n.Install(build(t, "3")))
	versions(2) // 1 runs, and 2 never did
	must(t, running.Process.Kill())
	_ = running.Wait()
	must(t, n.Install(build(t, "3")))
	versions(1)
}

func TestRemovalWaitsForWhatRuns(t *testing.T) {
	n := host(t, nil)
	must(t, n.Install(build(t, "1")))
	dir := rundir.Of(n.path(rundir.Root), "", "default", "pod")
	must(t, os.MkdirAll(string(dir), 0o700))
	lock, err := dir.Lock()
	must(t, err)
	must(t, dir.Save(rundir.State{ID: "pod-of-somebody"}))
	before := n.tree(t)
	if err := n.Remove(); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "pod-of-somebody") {
		t.Errorf("remove: %v", err)
	}
	if after := n.tree(t); strings.Join(after, "\n") != strings.Join(before, "\n") {
		t.Errorf("a removal that failed left\n%s", strings.Join(after, "\n"))
	}
	stop := make(chan os.Signal, 1)
	stop <- unix.SIGTERM
	if err := n.RemoveWhenIdle(time.Hour, stop); !errors.Is(err, ErrBusy) {
		t.Errorf("told to stop: %v", err)
	}
	done := make(chan error)
	go func() { done <- n.RemoveWhenIdle(time.Millisecond, stop) }()
	must(t, lock.Close())
	must(t, <-done)
	if _, err := os.Lstat(n.path("usr/local/bin", shim)); err == nil {
		t.Error("the shim is still there")
	}
}

func TestTwoAtATimeAreRefused(t *testing.T) {
	n := host(t, nil)
	must(t, n.exclusive(func() error {
		if err := n.Install(build(t, "1")); err == nil || !strings.Contains(err.Error(), "at work") {
			t.Errorf("%v", err)
		}
		return nil
	}))
}

func TestWithoutAnEngine(t *testing.T) {
	n := &Node{Root: t.TempDir(), Out: t.Output()}
	if err := n.Install(build(t, "1")); !errors.Is(err, errNoEngine) {
		t.Errorf("%v", err)
	}
	n.Engine = []string{"docker"}
	if err := n.Install(build(t, "1")); err == nil || !strings.Contains(err.Error(), `"docker" is not known`) {
		t.Errorf("%v", err)
	}
	n.Engine = []string{"crio"}
	must(t, n.Install(build(t, "1")))
}
