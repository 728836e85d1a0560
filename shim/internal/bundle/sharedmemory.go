package bundle

import (
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// SharedMemory is the guest's file system that is /dev/shm in all containers of a pod.
const SharedMemory = "/run/husk/shm"

// isSharedMemory says whether m is the pod's shared memory: a directory of the host that both CRI implementations make
// for each pod, called shm, below one called by the pod's id. Shared with the guest it would be slow, and memory of the
// host; so the guest has its own. A volume that somebody mounts there is a volume.
func isSharedMemory(m specs.Mount, identity Identity) bool {
	return identity.Kind != Single && path.Clean(m.Destination) == "/dev/shm" &&
		path.Base(m.Source) == "shm" && strings.Contains(m.Source, "/"+identity.Sandbox+"/")
}
