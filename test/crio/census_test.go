package crio

import (
	"testing"

	"github.com/huskvm/husk/test/rig"
)

// census lists the processes, mounts, cgroups, interfaces, directories and fifos that pods have made.
func census(t *testing.T) rig.Found {
	t.Helper()
	return rig.Census{
		Programs: []string{"containerd-shim", "husk", "qemu-system"},
		Mounts:   []string{state, "/husk/", "ns/"},
		Cgroups:  []string{"/kubepods/"},
		Files: []string{
			"/run/husk/*", "/run/*ns/*", "/sys/class/net/*",
			state + "/storage/*", state + "/run/overlay-containers/*", fifoDir() + "/*",
		},
		Lasting: []string{"lock"}, // of every sandbox
	}.Take(t)
}
