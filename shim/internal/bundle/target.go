package bundle

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// JoinTarget makes the guest's container join the pid namespace of that container of the pod which the host's
// specification names by its process: /proc/PID/ns/pid. ids are the containers' by the pids that stand for them there.
// Any other path is of the pod's own namespace.
func (g *Guest) JoinTarget(spec *specs.Spec, ids map[uint32]string) error {
	for _, n := range spec.Linux.Namespaces {
		pid, ok := processOf(n.Path)
		if n.Type != specs.PIDNamespace || !ok {
			continue
		}
		id, known := ids[pid]
		if !known {
			return fmt.Errorf("join pid namespace %s: no container of the pod has this process: %w", n.Path, errdefs.ErrFailedPrecondition)
		}
		for i := range g.Spec.Linux.Namespaces {
			if own := &g.Spec.Linux.Namespaces[i]; own.Type == specs.PIDNamespace {
				own.Path = inContainer + id
			}
		}
	}
	return nil
}

// processOf is the pid in the path of a process's namespace.
func processOf(path string) (pid uint32, ok bool) {
	rest, ok := strings.CutPrefix(path, "/proc/")
	number, _, found := strings.Cut(rest, "/ns/")
	if !ok || !found {
		return 0, false
	}
	n, err := strconv.ParseUint(number, 10, 32)
	return uint32(n), err == nil
}
