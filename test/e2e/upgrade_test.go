package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/huskvm/husk/test/rig"
)

// assets are what a container's shim looks for at its start.
var assets = map[string]string{"vmm_path": "husk-vmm", "kernel": "husk-kernel", "initramfs": "husk-initramfs"}

// ownAssets are flags for containers that have husk's parts from a directory of their own, which it returns.
func ownAssets(t *testing.T) (dir string, flags []string) {
	t.Helper()
	dir = t.TempDir()
	config := fmt.Sprintf("vmm = %q\ndefault_memory = \"256MiB\"\n", *backend)
	for key, name := range assets {
		data, err := os.ReadFile(filepath.Join(*bin, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o755); err != nil {
			t.Fatal(err)
		}
		config += fmt.Sprintf("%s = %q\n", key, filepath.Join(dir, name))
	}
	file := filepath.Join(dir, "husk.toml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, []string{"--runtime-config-path", file}
}

func removeAssets(t *testing.T, dir string) {
	t.Helper()
	for _, name := range assets {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// What a sandbox needs it has opened at its start: an upgrade that replaces the files, or an uninstallation, does not
// touch what runs, and what starts afterwards gets the new ones.
func TestReplacedAssetsAreTheNextContainers(t *testing.T) {
	before := census(t)
	dir, flags := ownAssets(t)
	b := start(t, flags, "sh", "-c", "trap 'exit 46' TERM; while :; do sleep 0.1; done")
	removeAssets(t, dir)
	if res := ctr(t, "task", "exec", "--exec-id", "after", b.id, "echo", "alive"); res.Stdout != "alive\n" {
		t.Errorf("%+v", res)
	}
	ctr(t, "task", "kill", "-s", "SIGTERM", b.id)
	if res := b.wait(t); res.Status != 46 {
		t.Errorf("status %d: %s", res.Status, res.Stderr)
	}
	refused(t, rig.RunArgs(newID(t), flags, "true"), "husk-kernel")
	before.Expect(t)
}

// Nor does it touch a pod, whose further containers come with disks of their own.
func TestReplacedAssetsLeaveAPodAlone(t *testing.T) {
	needSnapshotter(t, "blockfile")
	before := census(t)
	dir, flags := ownAssets(t)
	pod := podOnDisks(t, flags)
	member := start(t, onDisk("container", pod.id), "sleep", "1000")
	removeAssets(t, dir)
	res := ctrRun(t, onDisk("container", pod.id), "sh", "-c", "echo kept > /file; sync; cat /file; exit 7")
	if res.Status != 7 || res.Stdout != "kept\n" {
		t.Errorf("%+v", res)
	}
	member.end(t)
	pod.end(t)
	before.Expect(t)
}
