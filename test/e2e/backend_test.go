package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/huskvm/husk/test/rig"
	"github.com/huskvm/husk/vmm/kvm"
)

// onlyOn skips a test that is about another backend.
func onlyOn(t *testing.T, name string) {
	t.Helper()
	if *backend != name {
		t.Skipf("this is about %s; the guests run on %s", name, *backend)
	}
}

// withConfig is a container that runs with a configuration of its own.
func withConfig(t *testing.T, text string, args ...string) []string {
	t.Helper()
	return rig.RunArgs(newID(t), withConfigFlags(t, text), args...)
}

// withConfigFlags are the flags of one.
func withConfigFlags(t *testing.T, text string) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "husk.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"--runtime-config-path", path}
}

func TestAutoTakesKVMWhereItIsUsableElseQEMU(t *testing.T) {
	want := "kvm"
	if kvm.Probe("/dev/kvm") != nil {
		want = "qemu"
	}
	ctr(t, withConfig(t, "vmm = \"auto\"\ndefault_memory = \"256MiB\"\n", "true")...)
	log, err := os.ReadFile(shared.LogPath())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(log), "backend="+want) {
		t.Errorf("the log does not say backend=%s", want)
	}
}

func TestUnusableQEMUIsACreateError(t *testing.T) {
	onlyOn(t, "qemu")
	script := func(text string) string {
		path := filepath.Join(t.TempDir(), "qemu-system-x86_64")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		name, qemu string
		want       []string
	}{
		{"missing", "/no/such/qemu", []string{"/no/such/qemu"}},
		{"too old", script("case $1 in --version) echo QEMU emulator version 2.11.1;; *) exit 1; esac"), []string{"2.11", "6.2 or newer"}},
		{"another machine", script("case $1 in --version) echo QEMU emulator version 8.0.0;; *) echo unsupported machine type >&2; exit 1; esac"),
			[]string{"unsupported machine type"}},
		{"crashes at once", script("echo no firmware to be had >&2; exit 3"), []string{"no firmware to be had"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			refused(t, withConfig(t, fmt.Sprintf("vmm = \"qemu\"\nqemu = %q\n", c.qemu), "true"), c.want...)
		})
	}
}
