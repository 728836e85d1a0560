package seccomp

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	nativeAudit = unix.AUDIT_ARCH_PPC64LE
	hasX32      = false
)

func knownArches() []knownArch {
	return []knownArch{
		{name: specs.ArchPPC64LE, audit: unix.AUDIT_ARCH_PPC64LE, table: nativeTable},
	}
}
