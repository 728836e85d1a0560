// Package bundle turns an OCI bundle into what the sandbox needs: the specification for the guest, the host
// paths to share, and the size of the VM. Apart from Load, everything here is a pure function.
package bundle

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Load reads a bundle's config.json. The sources of binds that it gives relative to the bundle are made absolute.
func Load(dir string) (*specs.Spec, error) {
	path := filepath.Join(dir, "config.json")
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the bundle's specification: %w", err)
	}
	spec := new(specs.Spec)
	if err := json.Unmarshal(data, spec); err != nil {
		return nil, fmt.Errorf("parse %s: %w", path, err)
	}
	if spec.Process == nil || spec.Root == nil || spec.Linux == nil {
		return nil, fmt.Errorf("%s is not a Linux container's: it needs process, root and linux", path)
	}
	if len(spec.Process.Args) == 0 {
		return nil, fmt.Errorf("%s: process.args is empty: the container has no command", path)
	}
	for i, m := range spec.Mounts {
		if IsBind(m) && m.Source != "" && !filepath.IsAbs(m.Source) {
			spec.Mounts[i].Source = filepath.Join(dir, m.Source)
		}
	}
	return spec, nil
}

// Kind is a container's part in its sandbox.
type Kind int

// Every container is one of these.
const (
	Single Kind = iota // alone in a sandbox of its own
	Pod                // the first of a pod, which makes the sandbox
	Member             // a further one of a pod
)

// Identity says to which sandbox a container belongs.
type Identity struct {
	Sandbox string // its id: the id of the container that makes it
	Kind    Kind
}

// How the two CRI implementations mark a pod's containers.
var podAnnotations = []struct{ kind, sandbox string }{
	{"io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"},
	{"io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"},
}

// Identify reads the part of container id from its annotations.
func Identify(id string, annotations map[string]string) Identity {
	for _, a := range podAnnotations {
		switch sandbox := annotations[a.sandbox]; annotations[a.kind] {
		case "sandbox":
			return Identity{Sandbox: id, Kind: Pod}
		case "container":
			if sandbox != "" && sandbox != id {
				return Identity{Sandbox: sandbox, Kind: Member}
			}
		}
	}
	return Identity{Sandbox: id, Kind: Single}
}
