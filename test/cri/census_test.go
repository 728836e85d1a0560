package cri

import (
	"strconv"
	"strings"
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

// newVMMs are the processes of VMMs that were not there before.
func newVMMs(t *testing.T, before rig.Found) (pids []int) {
	t.Helper()
	for _, process := range before.Since(t, "process") {
		if name, pid, _ := strings.Cut(process, " "); name == "husk-vmm" {
			n, err := strconv.Atoi(pid)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, n)
		}
	}
	return pids
}
