package container

import (
	"fmt"

	"github.com/huskvm/husk/guest-agent/internal/stage"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// ignored names the fields that a guest gives no meaning, and for which runc, on a host with cgroup version 2 and
// without the security module, does nothing either. They are logged, once a container; all else that can't be
// honoured is an error.
func ignored(s *specs.Spec) []string {
	var list []string
	note := func(is bool, field, why string) {
		if is {
			list = append(list, field+": "+why)
		}
	}
	const (
		noModule = "the guest's kernel has no such security module"
		version1 = "only cgroup version 1 knows it"
	)
	p := s.Process
	note(p.ApparmorProfile != "", "process.apparmorProfile", noModule)
	note(p.SelinuxLabel != "", "process.selinuxLabel", noModule)
	note(p.User.Username != "" && (p.User.UID != 0 || p.User.GID != 0), "process.user.username", "uid and gid are given")
	unknown := stage.UnknownCapabilities(p.Capabilities)
	note(len(unknown) > 0, "process.capabilities", fmt.Sprintf("the guest's kernel has no %v", unknown))
	l := s.Linux
	if l == nil {
		return list
	}
	note(l.MountLabel != "", "linux.mountLabel", noModule)
	note(l.IntelRdt != nil, "linux.intelRdt", "a guest has no control of caches")
	if l.Personality != nil {
		note(len(l.Personality.Flags) > 0, "linux.personality.flags", fmt.Sprintf("%v are not supported", l.Personality.Flags))
	}
	r := l.Resources
	if r == nil {
		return list
	}
	note(r.Network != nil, "linux.resources.network", version1)
	if c := r.CPU; c != nil {
		note(c.RealtimePeriod != nil || c.RealtimeRuntime != nil, "linux.resources.cpu.realtime…", version1)
	}
	if m := r.Memory; m != nil {
		//lint:ignore SA1019 deprecated, and still set
		note(m.Kernel != nil || m.KernelTCP != nil, "linux.resources.memory.kernel…", version1)
		note(m.Swappiness != nil, "linux.resources.memory.swappiness", version1)
		note(m.DisableOOMKiller != nil && *m.DisableOOMKiller, "linux.resources.memory.disableOOMKiller", version1)
		note(m.UseHierarchy != nil && !*m.UseHierarchy, "linux.resources.memory.useHierarchy", version1)
	}
	if b := r.BlockIO; b != nil {
		note(b.LeafWeight != nil, "linux.resources.blockIO.leafWeight", version1)
	}
	return list
}
