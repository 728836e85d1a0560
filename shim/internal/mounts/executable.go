package mounts

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// machines are the names that images use for what ELF headers say.
var machines = map[elf.Machine]string{
	elf.EM_X86_64: "amd64", elf.EM_386: "386", elf.EM_AARCH64: "arm64", elf.EM_ARM: "arm",
	elf.EM_S390: "s390x", elf.EM_PPC64: "ppc64le", elf.EM_RISCV: "riscv64", elf.EM_LOONGARCH: "loong64",
	elf.EM_MIPS: "mips",
}

// runs says which programs a guest of an architecture executes besides its own.
var runs = map[string][]string{"amd64": {"386"}, "arm64": {"arm"}}

// CheckArchitecture fails when the container's command is a program for another architecture than the host's.
// It says nothing about a command it cannot find or judge: the guest does.
func CheckArchitecture(root *os.File, args, env []string, cwd string) error {
	name, machine, err := executable(int(root.Fd()), args, env, cwd)
	if err != nil {
		return nil //nolint:nilerr // not found is the guest's to report
	}
	image, known := machines[machine]
	if !known {
		image = machine.String()
	}
	if image == runtime.GOARCH {
		return nil
	}
	for _, other := range runs[runtime.GOARCH] {
		if image == other {
			return nil
		}
	}
	return fmt.Errorf("%s is a program for %s, and this host is %s: use the image's variant for linux/%s",
		name, image, runtime.GOARCH, runtime.GOARCH)
}

func executable(root int, args, env []string, cwd string) (string, elf.Machine, error) {
	if strings.Contains(args[0], "/") {
		name := args[0]
		if !path.IsAbs(name) {
			name = path.Join(cwd, name)
		}
		machine, err := machineOf(root, name)
		return name, machine, err
	}
	for _, v := range env {
		dirs, ok := strings.CutPrefix(v, "PATH=")
		if !ok {
			continue
		}
		for dir := range strings.SplitSeq(dirs, ":") {
			name := path.Join("/", cwd, dir, args[0])
			if path.IsAbs(dir) {
				name = path.Join(dir, args[0])
			}
			machine, err := machineOf(root, name)
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
				continue
			}
			return name, machine, err
		}
	}
	return "", 0, unix.ENOENT
}

// machineOf reads the ELF header of a regular file below root; nothing in root leads out of it.
func machineOf(root int, name string) (elf.Machine, error) {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	at, err := unix.Openat2(root, name, how)
	if err != nil {
		return 0, err
	}
	defer unix.Close(at)
	var stat unix.Stat_t
	if err := unix.Fstat(at, &stat); err != nil {
		return 0, err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, errors.New("not a regular file")
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", at))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var header [20]byte
	if _, err := io.ReadFull(f, header[:]); err != nil {
		return 0, err
	}
	if string(header[:4]) != elf.ELFMAG {
		return 0, errors.New("not an ELF file")
	}
	if elf.Data(header[elf.EI_DATA]) == elf.ELFDATA2MSB {
		return elf.Machine(header[18])<<8 | elf.Machine(header[19]), nil
	}
	return elf.Machine(header[19])<<8 | elf.Machine(header[18]), nil
}
