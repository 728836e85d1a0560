package qemu

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// fake is a program that answers like a QEMU.
func fake(t *testing.T, version, machines string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qemu-system-x86_64")
	script := "#!/bin/sh\ncase $1 in\n--version) echo '" + version + "';;\n-M) echo '" + machines + "';;\nesac\n"
	must(t, os.WriteFile(path, []byte(script), 0o755))
	return path
}

const (
	debian12 = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright (c) 2003-2022 Fabrice Bellard"
	withIt   = "Supported machines are:\nmicrovm              microvm (i386)\nnone                 empty machine"
)

func TestFind(t *testing.T) {
	for _, c := range []struct {
		name, version, machines string
		want                    string // of the error; empty for none
	}{
		{"Debian 12", debian12, withIt, ""},
		{"oldest", "QEMU emulator version 6.2.0 (Debian 1:6.2+dfsg-2ubuntu6.22)", withIt, ""},
		{"too old", "QEMU emulator version 5.2.0 (Debian 1:5.2+dfsg-11+deb11u3)", withIt, "is QEMU 5.2: husk needs 6.2 or newer"},
		{"two digits", "QEMU emulator version 10.0.2", withIt, ""},
		{"something else", "true (GNU coreutils) 9.1", withIt, "does not tell a version as QEMU does"},
		{"no version", "QEMU emulator version", withIt, "does not tell a version"},
		{"cut down", debian12, "Supported machines are:\npc   Standard PC\nmicrovm-not x", "has no machine type microvm"},
		{"named in passing", debian12, "pc    the opposite of microvm", "qemu-system-x86-core (Fedora)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			q, err := Find("amd64", fake(t, c.version, c.machines))
			switch {
			case c.want == "" && err != nil, c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q", err, c.want)
			case c.want == "" && q.Path == "":
				t.Error("found nothing")
			}
		})
	}
}

func TestFindNamesWhatIsMissing(t *testing.T) {
	dirs := directories
	t.Cleanup(func() { directories = dirs })
	directories = []string{t.TempDir()}
	t.Setenv("PATH", "relative:"+t.TempDir())
	for goarch, want := range map[string]string{
		"amd64":   "install the package qemu-system-x86 (Debian, Ubuntu) or qemu-system-x86-core (Fedora)",
		"arm64":   "qemu-system-aarch64 is not installed",
		"s390x":   "qemu-system-misc",
		"ppc64le": "qemu-system-ppc64 is not installed",
		"riscv64": "qemu-system-riscv64 is not installed",
		"mips":    `no QEMU machine is known for the architecture "mips"`,
	} {
		if _, err := Find(goarch, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", goarch, err, want)
		}
	}
	for override, want := range map[string]string{
		"qemu-system-x86_64":  "must be absolute",
		"/nonesuch/qemu":      "no such file",
		t.TempDir():           "permission denied",
		fake(t, debian12, ""): "has no machine type",
	} {
		if _, err := Find("amd64", override); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", override, err, want)
		}
	}
}

func TestFindLooksInPATHLast(t *testing.T) {
	dirs := directories
	t.Cleanup(func() { directories = dirs })
	first, second := fake(t, debian12, withIt), fake(t, debian12, withIt)
	directories = []string{filepath.Dir(first)}
	t.Setenv("PATH", filepath.Dir(second))
	if q, err := Find("amd64", ""); err != nil || q.Path != first || q.Version != (Version{7, 2}) {
		t.Errorf("got %v, %v", q, err)
	}
	directories = nil
	if q, err := Find("amd64", ""); err != nil || q.Path != second {
		t.Errorf("got %v, %v", q, err)
	}
}

// binary is the installed QEMU.
func binary(t testing.TB) Binary {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("qemu-system-x86_64 is not installed")
	}
	q, err := Find("amd64", "")
	must(t, err)
	return q
}
