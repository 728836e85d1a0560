package stage

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// capabilityNames are those of linux/capability.h, by number.
var capabilityNames = [...]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// set is a capability set, a bit for each number.
type set uint64

func (s set) has(n int) bool { return s&(1<<n) != 0 }

// UnknownCapabilities are the names that this agent does not know, each once.
func UnknownCapabilities(c *specs.LinuxCapabilities) []string {
	if c == nil {
		return nil
	}
	var list []string
	for _, name := range slices.Concat(c.Bounding, c.Effective, c.Inheritable, c.Permitted, c.Ambient) {
		bare := strings.TrimPrefix(strings.ToUpper(name), "CAP_")
		if !slices.Contains(capabilityNames[:], bare) && !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
}

type capabilities struct {
	bounding, effective, inheritable, permitted, ambient set
}

// parseCapabilities reads the five sets; without any, a process has none. A name this kernel's header does not
// know is left out, as the runtime-spec wants: it can't be granted, and its lack is no failure.
func parseCapabilities(c *specs.LinuxCapabilities) (*capabilities, error) {
	if c == nil {
		return &capabilities{}, nil
	}
	var out capabilities
	for _, part := range []struct {
		to    *set
		names []string
	}{
		{&out.bounding, c.Bounding},
		{&out.effective, c.Effective},
		{&out.inheritable, c.Inheritable},
		{&out.permitted, c.Permitted},
		{&out.ambient, c.Ambient},
	} {
		for _, name := range part.names {
			bare, ok := strings.CutPrefix(strings.ToUpper(name), "CAP_")
			if !ok {
				return nil, fmt.Errorf("capability %q does not begin with CAP_", name)
			}
			for n, known := range capabilityNames {
				if bare == known {
					*part.to |= 1 << n
				}
			}
		}
	}
	return &out, nil
}

// dropBounding leaves only keep in the calling thread's bounding set.
func dropBounding(keep set) error {
	for n := range 64 {
		if keep.has(n) {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(n), 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			return nil // past the last one this kernel has
		}
		if err != nil {
			return fmt.Errorf("drop capability %d from the bounding set: %w", n, err)
		}
	}
	return nil
}

// apply sets the calling thread's remaining sets.
func (c *capabilities) apply() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	// What this thread does not have it can't pass on; a kernel may know fewer than we do.
	limit := set(have[0].Permitted) | set(have[1].Permitted)<<32
	permitted := c.permitted & limit
	effective := c.effective & permitted
	inheritable := c.inheritable & limit
	data := [2]unix.CapUserData{
		{Effective: uint32(effective), Permitted: uint32(permitted), Inheritable: uint32(inheritable)},
		{Effective: uint32(effective >> 32), Permitted: uint32(permitted >> 32), Inheritable: uint32(inheritable >> 32)},
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	for n := range capabilityNames {
		// One that is not permitted and inheritable can't be ambient; runc leaves it out as well.
		if !c.ambient.has(n) || !permitted.has(n) || !inheritable.has(n) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(n), 0, 0); err != nil {
			return fmt.Errorf("raise ambient capability CAP_%s: %w", capabilityNames[n], err)
		}
	}
	return nil
}
