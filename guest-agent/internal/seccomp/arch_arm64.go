package seccomp

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	nativeAudit = unix.AUDIT_ARCH_AARCH64
	hasX32      = false
)

func knownArches() []knownArch {
	return []knownArch{
		{name: specs.ArchAARCH64, audit: unix.AUDIT_ARCH_AARCH64, table: nativeTable},
		{name: specs.ArchARM, audit: unix.AUDIT_ARCH_ARM, table: compatTable},
	}
}
