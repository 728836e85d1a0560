// Package foreign boots the machines of architectures other than this one, in QEMU's software emulation, and runs
// containers in them: the kernel of make kernel-ARCH, husk's agent, and husk's own vsock and file system devices.
//
// `make foreign` runs it. Everything comes from bin/ARCH, and what is missing there skips. HUSK_TEST_FOREIGN names the
// architectures, by GOARCH and with spaces between, that must not be skipped. HUSK_TEST_CMDLINE is what the kernel is
// told beside what its machine needs, instead of quiet.
package foreign

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/huskvm/husk/vmm/qemu"
)

// architecture is what a guest says of itself.
type architecture struct {
	goarch  string
	machine string // uname -m
	order   string
}

var architectures = []architecture{
	{"arm64", "aarch64", "little-endian"},
	{"s390x", "s390x", "big-endian"},
}

const mustRun = "HUSK_TEST_FOREIGN"

func TestNoOtherArchitectureIsAskedFor(t *testing.T) {
	for _, name := range strings.Fields(os.Getenv(mustRun)) {
		if !slices.ContainsFunc(architectures, func(a architecture) bool { return a.goarch == name }) {
			t.Errorf("%s names %q, which nothing here tests", mustRun, name)
		}
	}
}

// parts are what a machine is made of.
type parts struct {
	qemu              qemu.Binary
	kernel, initramfs string
	root              string // of containers: a directory with the witness in it
}

// find skips when something is missing, or fails when the architecture must run.
func find(t *testing.T, a architecture) parts {
	t.Helper()
	give := t.Skipf
	if slices.Contains(strings.Fields(os.Getenv(mustRun)), a.goarch) {
		give = t.Fatalf
	}
	q, err := qemu.Find(a.goarch, "")
	if err != nil {
		give("%v", err)
	}
	dir, err := filepath.Abs(filepath.Join("../../bin", a.goarch))
	must(t, err)
	p := parts{qemu: q, kernel: filepath.Join(dir, "husk-kernel"), initramfs: filepath.Join(dir, "husk-initramfs")}
	for _, f := range []string{p.kernel, p.initramfs} {
		if _, err := os.Stat(f); err != nil {
			give("%v: run make foreign", err)
		}
	}
	p.root = makeRoot(t, a)
	return p
}

// makeRoot lays out a root with the witness in it and nothing else.
func makeRoot(t *testing.T, a architecture) string {
	t.Helper()
	root := t.TempDir()
	for _, d := range []string{"bin", "dev", "proc", "sys"} {
		must(t, os.Mkdir(filepath.Join(root, d), 0o755))
	}
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", filepath.Join(root, "bin/witness"), "./witness")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+a.goarch)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the witness: %v\n%s", err, out)
	}
	return root
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
