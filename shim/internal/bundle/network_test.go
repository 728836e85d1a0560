package bundle

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestResolvConfOfASpecificationIsTheLastBindThere(t *testing.T) {
	bind := []string{"rbind", "ro"}
	spec := &specs.Spec{Mounts: []specs.Mount{
		{Destination: "/etc/hosts", Source: "/hosts", Type: "bind"},
		{Destination: "/etc/resolv.conf", Source: "tmpfs", Type: "tmpfs"},
	}}
	if got := ResolvConfOf(spec); got != "" {
		t.Error(got)
	}
	spec.Mounts = append(spec.Mounts,
		specs.Mount{Destination: "/etc/resolv.conf", Source: "/a", Options: bind},
		specs.Mount{Destination: "/etc//resolv.conf", Source: "/b", Options: bind},
	)
	if got := ResolvConfOf(spec); got != "/b" {
		t.Error(got)
	}
}
