package kernel

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const dependencies = `kernel/irqbypass.ko:
kernel/kvm.ko: kernel/irqbypass.ko
kernel/kvm-amd.ko.xz: kernel/ccp.ko kernel/kvm.ko kernel/irqbypass.ko
kernel/ccp.ko:
kernel/tun.ko:
kernel/loop-a.ko: kernel/loop-b.ko
kernel/loop-b.ko: kernel/loop-a.ko
`

func testModules(t *testing.T) *Modules {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "modules.dep"), dependencies)
	write(t, filepath.Join(dir, "modules.builtin"), "kernel/unix.ko\n")
	m, err := OpenModules(dir)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestModulesComeAfterWhatTheyNeedAndOnce(t *testing.T) {
	m := testModules(t)
	got, err := m.Order("kvm_amd", "tun", "kvm")
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		got[i] = filepath.Base(got[i])
	}
	want := []string{"irqbypass.ko", "kvm.ko", "ccp.ko", "kvm-amd.ko.xz", "tun.ko"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestModuleIsFoundWithDashOrUnderscore(t *testing.T) {
	m := testModules(t)
	for _, name := range []string{"kvm-amd", "kvm_amd"} {
		if got, err := m.Order(name); err != nil || len(got) != 4 {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}

func TestBuiltInModuleHasNoFile(t *testing.T) {
	if got, err := testModules(t).Order("unix"); err != nil || len(got) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestUnknownModuleIsAnError(t *testing.T) {
	_, err := testModules(t).Order("nosuch")
	if !errors.Is(err, ErrNoModule) || !strings.Contains(err.Error(), "nosuch") {
		t.Errorf("got %v", err)
	}
}

func TestModulesThatNeedEachOtherAreAnError(t *testing.T) {
	if _, err := testModules(t).Order("loop_a"); err == nil {
		t.Error("a cycle was ordered")
	}
}

func TestMalformedModuleListNamesTheLine(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "modules.dep"), "kernel/a.ko:\nnonsense\n")
	_, err := OpenModules(dir)
	if err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("got %v", err)
	}
}
