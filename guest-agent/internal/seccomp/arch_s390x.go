package seccomp

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	nativeAudit = unix.AUDIT_ARCH_S390X
	hasX32      = false
)

func knownArches() []knownArch {
	return []knownArch{
		{name: specs.ArchS390X, audit: unix.AUDIT_ARCH_S390X, table: nativeTable},
		{name: specs.ArchS390, audit: unix.AUDIT_ARCH_S390, table: compatTable},
	}
}
