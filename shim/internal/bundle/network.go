package bundle

import (
	"path"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// NetworkNamespace is the path of the network namespace that a specification names; empty for a new one. When none is
// asked for, the container's is the host's.
func NetworkNamespace(spec *specs.Spec) (path string, asked bool) {
	for _, n := range spec.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			return n.Path, true
		}
	}
	return "", false
}

// ResolvConfOf is the host's file that is the container's /etc/resolv.conf; empty when that is its image's own.
func ResolvConfOf(spec *specs.Spec) (file string) {
	for _, m := range spec.Mounts {
		if path.Clean(m.Destination) == "/etc/resolv.conf" && IsBind(m) {
			file = m.Source // the last one is on top
		}
	}
	return file
}
