package cri

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// hostUsers: false. The container's root is nobody of importance, in the guest neither.
func TestAPodWithUsersOfItsOwn(t *testing.T) {
	if *containerd == "" || *handler != "husk" {
		t.Skip("containerd 1.6 has no user namespaces for pods, and the Sandbox API needs a pause container for them")
	}
	if !mapped(t, shared.Dir()) {
		t.Skip("the engine's root is on a tmpfs, whose owners this kernel can't map: Linux 6.3 can")
	}
	volume := t.TempDir()
	if err := os.Chmod(volume, 0o777); err != nil {
		t.Fatal(err)
	}
	ids := []*cri.IDMapping{{HostId: 165536, ContainerId: 0, Length: 65536}}
	users := &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: ids, Gids: ids}
	p := newPod(t, func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = users })
	config := shell("main", idle)
	config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = users
	config.Mounts = []*cri.Mount{{HostPath: volume, ContainerPath: "/volume", UidMappings: ids, GidMappings: ids}}
	c := p.start(config)
	c.expectOutput("0 165536 65536", "awk '{print $1, $2, $3}' /proc/self/uid_map")
	c.expectOutput("0", "id -u")
	c.expectOutput("0", "stat -c %u /bin/busybox")
	c.expectOutput("0 0", "echo x > /volume/file && stat -c '%u %g' /volume/file")
	var s unix.Stat_t
	if err := unix.Stat(filepath.Join(volume, "file"), &s); err != nil || s.Uid != 0 {
		t.Errorf("on the host: user %d, %v", s.Uid, err)
	}
}

// mapped says whether the kernel can map the owners of dir's file system. All others that an engine is on could before
// tmpfs.
func mapped(t *testing.T, dir string) bool {
	t.Helper()
	var f unix.Statfs_t
	var name unix.Utsname
	if err := errors.Join(unix.Statfs(dir, &f), unix.Uname(&name)); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	return f.Type != unix.TMPFS_MAGIC || major > 6 || major == 6 && minor >= 3
}
