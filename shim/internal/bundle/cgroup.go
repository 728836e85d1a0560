package bundle

import (
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// ownCgroups gives a container that sees cgroups a cgroup namespace. On a host with cgroup version 1 nobody asks for
// one, and privileged containers do without; but the guest has version 2, where a container that manages its own, as
// systemd does, must find itself at the root of what is mounted.
func ownCgroups(s *specs.Spec) {
	seen := slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "cgroup" || m.Type == "cgroup2" })
	has := slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace })
	if seen && !has {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
}
