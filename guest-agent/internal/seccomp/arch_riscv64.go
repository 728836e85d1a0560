package seccomp

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	nativeAudit = unix.AUDIT_ARCH_RISCV64
	hasX32      = false
)

func knownArches() []knownArch {
	return []knownArch{
		{name: specs.ArchRISCV64, audit: unix.AUDIT_ARCH_RISCV64, table: nativeTable},
	}
}
