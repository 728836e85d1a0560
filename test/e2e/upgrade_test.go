package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/huskvm/husk/test/rig"
)

// What a sandbox needs it has opened at its start: an upgrade that replaces the files, or an uninstallation, does not
// touch what runs, and what starts afterwards gets the new ones.
func TestReplacedAssetsAreTheNextContainers(t *testing.T) {
	before := census(t)
	dir := t.TempDir()
	config := fmt.Sprintf("vmm = %q\ndefault_memory = \"256MiB\"\n", *backend)
	for key, name := range map[string]string{"vmm_path": "husk-vmm", "kernel": "husk-kernel", "initramfs": "husk-initramfs"} {
		data, err := os.ReadFile(filepath.Join(*bin, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o755); err != nil {
			t.Fatal(err)
		}
		config += fmt.Sprintf("%s = %q\n", key, filepath.Join(dir, name))
	}
	flags := []string{"--runtime-config-path", filepath.Join(dir, "husk.toml")}
	if err := os.WriteFile(flags[1], []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	b := start(t, flags, "sh", "-c", "trap 'exit 46' TERM; while :; do sleep 0.1; done")
	for _, name := range []string{"husk-vmm", "husk-kernel", "husk-initramfs"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
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
