package sandbox

import (
	"fmt"

	"golang.org/x/sys/unix"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	"github.com/huskvm/husk/shim/internal/bundle"
)

// defaultSharedMemory is the size of /dev/shm where the engine does not say one.
const defaultSharedMemory = 64 << 20

// sharedMemory is the file system for a pod's /dev/shm, as large as the one on the host that it stands for.
func sharedMemory(host string) *agentv1.Storage {
	size := uint64(defaultSharedMemory)
	var stat unix.Statfs_t
	if host != "" && unix.Statfs(host, &stat) == nil && stat.Type == unix.TMPFS_MAGIC && stat.Blocks > 0 {
		size = stat.Blocks * uint64(stat.Bsize)
	}
	return &agentv1.Storage{
		Fstype: "tmpfs", Target: bundle.SharedMemory,
		Options: []string{"nosuid", "nodev", "noexec", "mode=1777", fmt.Sprint("size=", size)},
	}
}
