package cri

import (
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestSecurityContext(t *testing.T) {
	p := newPod(t)
	for _, c := range []struct {
		name string
		edit func(*cri.LinuxContainerSecurityContext)
		run  string
		want string
	}{
		{"user", func(s *cri.LinuxContainerSecurityContext) {
			s.RunAsUser, s.RunAsGroup, s.SupplementalGroups = &cri.Int64Value{Value: 1000}, &cri.Int64Value{Value: 1000}, []int64{3000}
		}, "echo $(id -u) $(id -g) $(id -G | tr ' ' '\\n' | grep 3000)", "1000 1000 3000"},
		{"user by name", func(s *cri.LinuxContainerSecurityContext) { s.RunAsUsername = "user" }, "id -un", "user"},
		{"read-only root", func(s *cri.LinuxContainerSecurityContext) { s.ReadonlyRootfs = true },
			"touch /x 2>/dev/null || echo refused", "refused"},
		{"dropped capability", func(s *cri.LinuxContainerSecurityContext) {
			s.Capabilities = &cri.Capability{DropCapabilities: []string{"CHOWN"}}
		}, "chown 1 /root 2>/dev/null || echo refused", "refused"},
		{"added capability", func(s *cri.LinuxContainerSecurityContext) {
			s.Capabilities = &cri.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
		}, "mount -t tmpfs none /tmp && echo mounted", "mounted"},
		{"without it", func(s *cri.LinuxContainerSecurityContext) {},
			"mount -t tmpfs none /tmp 2>/dev/null || echo refused", "refused"},
		{"seccomp", func(s *cri.LinuxContainerSecurityContext) {
			s.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
		}, "awk '/^Seccomp:/ {print $2}' /proc/self/status", "2"},
		{"no seccomp", func(s *cri.LinuxContainerSecurityContext) {
			s.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
		}, "awk '/^Seccomp:/ {print $2}' /proc/self/status", "0"},
		{"no new privileges", func(s *cri.LinuxContainerSecurityContext) { s.NoNewPrivs = true },
			"awk '/^NoNewPrivs:/ {print $2}' /proc/self/status", "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := shell(strings.ReplaceAll(c.name, " ", "-"), c.run)
			c.edit(config.Linux.SecurityContext)
			ctr := p.start(config)
			ctr.expectExit(0)
			eventually(t, "it says "+c.want, func() bool { return strings.TrimSpace(ctr.log()) != "" })
			if got := strings.TrimSpace(ctr.log()); got != c.want {
				t.Errorf("it says %q, want %q", got, c.want)
			}
			ctr.remove()
		})
	}
}

// Privileged is so within the VM: its kernel is the container's to change, and of the host's devices there is none.
func TestPrivilegedWithinTheVM(t *testing.T) {
	p := newPod(t, func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	config := shell("privileged", idle)
	config.Linux.SecurityContext.Privileged = true
	c := p.start(config)
	c.expectOutput("all", "mount -t tmpfs none /tmp && mknod /tmp/null c 1 3 && echo > /tmp/null && echo 1 > /proc/sys/vm/drop_caches && echo all")
	c.expectOutput("0", "ls /dev | grep -c -e ^sd -e ^nvme -e ^kvm || true")
}
