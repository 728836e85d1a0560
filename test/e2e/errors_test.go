package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/huskvm/husk/test/rig"
)

// Bad input: an error of Create that names the thing and the remedy, soon, with nothing left behind.

// refused runs a container that cannot be created, and checks that ctr says so with all of want.
func refused(t *testing.T, args []string, want ...string) {
	t.Helper()
	before := census(t)
	begin := time.Now()
	res, err := rig.Exec(shared.Ctr(testContext(t), args...))
	if err != nil {
		t.Fatal(err)
	}
	if res.Status == 0 {
		t.Errorf("ctr run says that all went well: %+v", res)
	}
	for _, w := range want {
		if !strings.Contains(res.Stderr, w) {
			t.Errorf("ctr says %q, want %q in it", res.Stderr, w)
		}
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("the error took %s", took)
	}
	before.Expect(t)
}

func TestBadConfigurationIsACreateError(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		config string
		want   []string
	}{
		{"missing kernel", `kernel = "/no/such/kernel"`, []string{"/no/such/kernel", "kernel"}},
		{"missing initramfs", `initramfs = "/no/such/initramfs"`, []string{"/no/such/initramfs", "initramfs"}},
		{"missing VMM", `vmm_path = "/no/such/vmm"`, []string{"/no/such/vmm"}},
		{"kernel that is none", `kernel = "` + empty + `"`, []string{"kernel"}},
		{"unknown key", `kernle = "/x"`, []string{"kernle", "husk.toml"}},
		{"wrong type", `default_vcpus = "many"`, []string{"default_vcpus", "husk.toml"}},
		{"no TOML at all", "{", []string{"husk.toml"}},
		{"too little memory", `default_memory = "8MiB"`, []string{"memory"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "husk.toml")
			if err := os.WriteFile(path, []byte(c.config+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			refused(t, rig.RunArgs(newID(t), []string{"--runtime-config-path", path}, "true"), c.want...)
		})
	}
	t.Run("unreadable file", func(t *testing.T) {
		refused(t, rig.RunArgs(newID(t), []string{"--runtime-config-path", "/no/such/husk.toml"}, "true"), "/no/such/husk.toml")
	})
}

func TestHostWithoutKVMIsACreateError(t *testing.T) {
	onlyOn(t, "kvm")
	if err := os.Rename("/dev/kvm", "/dev/kvm.away"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.Rename("/dev/kvm.away", "/dev/kvm"); err != nil {
			t.Fatal(err)
		}
	}()
	refused(t, rig.RunArgs(newID(t), nil, "true"), "/dev/kvm")
}

func TestUnknownAnnotationValueIsACreateError(t *testing.T) {
	refused(t, rig.RunArgs(newID(t), []string{"--annotation", "io.husk.vcpus=many"}, "true"), "io.husk.vcpus", "many")
}

func TestImageOfAnotherArchitectureIsACreateError(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	// An ELF header of a 64-bit little-endian AArch64 executable.
	header := make([]byte, 64)
	copy(header, "\x7fELF\x02\x01\x01")
	header[16], header[18], header[20] = 2, 183, 1
	if err := os.WriteFile(filepath.Join(root, "bin/prog"), header, 0o755); err != nil {
		t.Fatal(err)
	}
	refused(t, []string{"run", "--rm", "--runtime", rig.Runtime, "--rootfs", root, newID(t), "/bin/prog"}, "arm64", "amd64")
}

func TestMissingExecutableCanBeMadeAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "husk.toml")
	if err := os.WriteFile(path, []byte(configuration("missing_executable = \"error\"\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, rig.RunArgs(newID(t), []string{"--runtime-config-path", path}, "nosuch"),
		`exec: "nosuch": executable file not found in $PATH`)
}
