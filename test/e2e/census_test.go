package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/huskvm/husk/test/rig"
)

// counts is what of husk is on the host.
type counts rig.Counts

func where() rig.Census {
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

// census lists every process, mount, cgroup, interface, socket and file that a sandbox may have made.
func census(t *testing.T) counts {
	t.Helper()
	found, err := where().Take()
	if err != nil {
		t.Fatal(err)
	}
	return counts(found)
}

// expect waits until nothing is there that was not before, and fails the test when it takes more than half a minute.
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
