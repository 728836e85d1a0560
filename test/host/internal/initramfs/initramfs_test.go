package initramfs

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/huskvm/husk/test/host/internal/kernel"
	"github.com/huskvm/husk/test/host/internal/wire"
)

// program writes an ELF file with nothing but its header and, if wanted, the segment that names a loader.
func program(t *testing.T, dynamic bool) string {
	t.Helper()
	const headerSize, segmentSize, segmentInterp = 64, 56, 3
	file := make([]byte, headerSize+segmentSize)
	copy(file, "\x7fELF\x02\x01\x01")
	binary.LittleEndian.PutUint16(file[16:], 2)  // an executable
	binary.LittleEndian.PutUint16(file[18:], 62) // for x86-64
	binary.LittleEndian.PutUint32(file[20:], 1)
	binary.LittleEndian.PutUint64(file[32:], headerSize)
	binary.LittleEndian.PutUint16(file[52:], headerSize)
	binary.LittleEndian.PutUint16(file[54:], segmentSize)
	binary.LittleEndian.PutUint16(file[56:], 1)
	if dynamic {
		binary.LittleEndian.PutUint32(file[headerSize:], segmentInterp)
	}
	path := filepath.Join(t.TempDir(), "init")
	if err := os.WriteFile(path, file, 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// moduleDir is a kernel's, with the given modules; each needs "base".
func moduleDir(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	lists := map[string]string{"modules.dep": "base.ko:\n", "modules.builtin": "", "base.ko": "code of base"}
	for _, name := range names {
		lists["modules.dep"] += name + ".ko: base.ko\n"
		lists[name+".ko"] = "code of " + name
	}
	for name, content := range lists {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestArchiveHoldsInitSpecificationAndModules(t *testing.T) {
	dir := moduleDir(t, append([]string{"kvm_amd", "tun"}, bootModules...)...)
	archive, err := Build(program(t, false), dir, "kvm_amd", wire.Spec{Command: []string{"true"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"init\x00", "dev/console\x00", "modules/9p.ko\x00", "code of tun"} {
		if !bytes.Contains(archive, []byte(want)) {
			t.Errorf("the archive has no %q", want)
		}
	}
	if n := bytes.Count(archive, []byte("code of base")); n != 1 {
		t.Errorf("a module that many need is there %d times", n)
	}

	start := bytes.Index(archive, []byte(`{"command"`))
	var spec wire.Spec
	if err := json.NewDecoder(bytes.NewReader(archive[start:])).Decode(&spec); err != nil {
		t.Fatal(err)
	}
	want := []wire.Module{{File: "kvm_amd.ko"}, {File: "tun.ko"}}
	if diff := cmp.Diff(want, spec.More); diff != "" {
		t.Errorf("optional modules differ (-want +got):\n%s", diff)
	}
	if len(spec.Boot) != len(bootModules)+1 || spec.Boot[0] != (wire.Module{File: "base.ko", Required: true}) {
		t.Errorf("required modules are %+v", spec.Boot)
	}
}

func TestKernelWithoutARequiredModuleIsRefused(t *testing.T) {
	_, err := Build(program(t, false), moduleDir(t, "virtio_pci"), "kvm_amd", wire.Spec{})
	if !errors.Is(err, kernel.ErrNoModule) {
		t.Errorf("got %v", err)
	}
}

func TestDynamicInitIsRefusedWithTheRemedy(t *testing.T) {
	_, err := Build(program(t, true), moduleDir(t, bootModules...), "kvm_amd", wire.Spec{})
	if err == nil || !strings.Contains(err.Error(), "CGO_ENABLED=0") {
		t.Errorf("got %v", err)
	}
}
