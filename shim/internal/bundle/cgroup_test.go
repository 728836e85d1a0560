package bundle

import (
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestWhoSeesCgroupsIsAtTheirRoot(t *testing.T) {
	namespace := specs.LinuxNamespace{Type: specs.CgroupNamespace}
	mount := func(typ string) []specs.Mount { return []specs.Mount{{Type: typ, Destination: "/sys/fs/cgroup"}} }
	for _, c := range []struct {
		name   string
		mounts []specs.Mount
		asked  []specs.LinuxNamespace
		want   int
	}{
		{"no mount", nil, nil, 0},
		{"version 1's mount", mount("cgroup"), nil, 1},
		{"version 2's mount", mount("cgroup2"), nil, 1},
		{"asked for", mount("cgroup"), []specs.LinuxNamespace{namespace}, 1},
	} {
		spec := minimal()
		spec.Mounts, spec.Linux.Namespaces = c.mounts, c.asked
		g, err := ForGuest("id", spec)
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		for n := range slices.Values(g.Spec.Linux.Namespaces) {
			if n == namespace {
				got++
			}
		}
		if got != c.want {
			t.Errorf("%s: %d cgroup namespaces, want %d", c.name, got, c.want)
		}
	}
}
