package cri

import (
	"strings"
	"testing"

	"github.com/huskvm/husk/test/rig"
)

// counts is what pods have made on the host.
type counts rig.Counts

func where() rig.Census {
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
	}
}

// census lists the processes, mounts, cgroups, interfaces, sockets, leases and bundles that are there.
func census(t *testing.T) counts {
	t.Helper()
	found, err := where().Take()
	if err != nil {
		t.Fatal(err)
	}
	return counts(found)
}

// expect waits until nothing is there that was not before.
func (c counts) expect(t *testing.T) {
	t.Helper()
	left, err := where().Left(rig.Counts(c))
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}
