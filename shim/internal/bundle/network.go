package bundle

import "github.com/opencontainers/runtime-spec/specs-go"

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
