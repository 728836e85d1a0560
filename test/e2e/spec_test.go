package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/huskvm/husk/test/rig"
)

// runc is the runtime to be like.
const runc = "io.containerd.runc.v2"

var (
	unpackOnce sync.Once
	unpackErr  error
)

// rootfs is the test image's files in a directory of the test's own.
func rootfs(t *testing.T) string {
	t.Helper()
	unpacked := filepath.Join(shared.Dir(), "rootfs")
	unpackOnce.Do(func() { unpackErr = unpack(t, unpacked) })
	if unpackErr != nil {
		t.Fatal(unpackErr)
	}
	dir := filepath.Join(t.TempDir(), "rootfs")
	output(t, "cp", "-a", unpacked, dir)
	return dir
}

func unpack(t *testing.T, dir string) error {
	view := filepath.Join(shared.Dir(), "view")
	if err := os.Mkdir(view, 0o755); err != nil {
		return err
	}
	ctr(t, "image", "mount", rig.Image, view)
	defer ctr(t, "image", "unmount", "--rm", view)
	return exec.Command("cp", "-a", view, dir).Run()
}

// newSpec is what containerd makes for a container that asks for nothing, with a root of its own.
func newSpec(t *testing.T, args ...string) *specs.Spec {
	t.Helper()
	if !*oci {
		t.Skip("-oci=false: the fields of the specification are tested elsewhere")
	}
	s := new(specs.Spec)
	if err := json.Unmarshal([]byte(ctr(t, "oci", "spec").Stdout), s); err != nil {
		t.Fatal(err)
	}
	s.Root = &specs.Root{Path: rootfs(t)}
	s.Process.Args = args
	s.Process.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	s.Linux.CgroupsPath = "/default/" + newID(t)
	return s
}

// needNewSpec skips what a containerd of version 1 does not pass on: it drops the fields of a specification that it does
// not know.
func needNewSpec(t *testing.T) {
	t.Helper()
	if strings.Contains(ctr(t, "version").Stdout, "Version:  1.") {
		t.Skip("this containerd is older than the field")
	}
}

// script is newSpec with a shell's script for a command.
func script(t *testing.T, text string) *specs.Spec {
	t.Helper()
	return newSpec(t, "sh", "-c", text)
}

// bare is ctr's arguments for a container of a specification instead of an image.
func bare(t *testing.T, runtime string, s *specs.Spec) []string {
	t.Helper()
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"run", "--rm", "--runtime", runtime, "--config", path, newID(t)}
}

// runSpec is a container of a specification, to its end.
func runSpec(t *testing.T, s *specs.Spec) rig.Result {
	t.Helper()
	return runSpecOn(t, rig.Runtime, s)
}

func runSpecOn(t *testing.T, runtime string, s *specs.Spec) rig.Result {
	t.Helper()
	res, err := rig.Exec(shared.Ctr(testContext(t), bare(t, runtime, s)...))
	if err != nil {
		t.Fatal(err)
	}
	return res
}
