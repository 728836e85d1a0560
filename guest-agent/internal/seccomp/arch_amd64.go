package seccomp

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	nativeAudit = unix.AUDIT_ARCH_X86_64
	hasX32      = true
)

func knownArches() []knownArch {
	return []knownArch{
		{name: specs.ArchX86_64, audit: unix.AUDIT_ARCH_X86_64, table: nativeTable},
		{name: specs.ArchX86, audit: unix.AUDIT_ARCH_I386, table: compatTable},
		{name: specs.ArchX32, x32: true},
	}
}
