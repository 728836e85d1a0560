package bundle

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestOnlyThePodsOwnSharedMemoryIsTheGuests(t *testing.T) {
	pod, member := Identity{"pod", Pod}, Identity{"pod", Member}
	for _, c := range []struct {
		name        string
		identity    Identity
		source      string
		destination string
		want        bool
	}{
		{"containerd's", member, "/run/containerd/io.containerd.grpc.v1.cri/sandboxes/pod/shm", "/dev/shm", true},
		{"CRI-O's", member, "/run/containers/storage/overlay-containers/pod/userdata/shm", "/dev/shm", true},
		{"of the first container", pod, "/run/containerd/io.containerd.grpc.v1.cri/sandboxes/pod/shm", "/dev/shm/", true},
		{"another pod's", member, "/run/sandboxes/other/shm", "/dev/shm", false},
		{"a volume", member, "/var/lib/kubelet/pods/uid/volumes/kubernetes.io~empty-dir/shm", "/dev/shm", false},
		{"the host's", member, "/dev/shm", "/dev/shm", false},
		{"elsewhere", member, "/run/sandboxes/pod/shm", "/shm", false},
		{"no pod", Identity{"pod", Single}, "/run/sandboxes/pod/shm", "/dev/shm", false},
	} {
		m := specs.Mount{Type: "bind", Source: c.source, Destination: c.destination}
		if got := isSharedMemory(m, c.identity); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
