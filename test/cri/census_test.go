package cri

import (
	"testing"

	"github.com/huskvm/husk/test/rig"
)

// census lists the processes, mounts, cgroups, interfaces, sockets, leases and bundles that pods have made.
func census(t *testing.T) rig.Found {
	t.Helper()
	return rig.Census{
		Programs: []string{"containerd-shim", "husk", "qemu-system"},
		Mounts:   []string{shared.Dir(), "/husk/", "/netns/"},
		Cgroups:  []string{"/k8s.io/"},
		Files: []string{
			"/run/husk/*", "/run/netns/*", "/sys/class/net/*", shared.Dir() + "/leases/husk-test/10.*",
			shared.StateDir() + "/io.containerd.runtime.v2.task/*/*", shared.StateDir() + "/io.containerd.grpc.v1.cri/*/*",
		},
		// The lock is every sandbox's, and the bridge every pod's.
		Lasting: []string{"lock", "husktest0"},
	}.Take(t)
}
