package e2e

import (
	"path/filepath"
	"testing"

	"github.com/huskvm/husk/test/rig"
)

// census lists every process, mount, cgroup, interface, socket and file that a sandbox may have made.
func census(t *testing.T) rig.Found {
	t.Helper()
	return places().Take(t)
}

func places() rig.Census {
	return rig.Census{
		Programs: []string{"containerd-shim", "husk", "qemu-system"},
		Mounts:   []string{shared.Dir(), "/husk/"},
		Cgroups:  []string{"/default/", "husk"},
		Files: []string{
			"/run/husk/*", "/run/containerd/s/*", "/sys/class/net/*",
			filepath.Join(shared.StateDir(), "io.containerd.runtime.v2.task/*/*"),
		},
		// The KVM test host's own machine, and the lock of every sandbox.
		Lasting: []string{"husk-host", "lock"},
	}
}
