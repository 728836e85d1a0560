package container

import (
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestIgnoredFieldsAreNamed(t *testing.T) {
	s := &specs.Spec{
		Process: &specs.Process{
			ApparmorProfile: "a", SelinuxLabel: "b", User: specs.User{UID: 1, Username: "joe"},
			Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_NOT_YET"}},
		},
		Linux: &specs.Linux{
			MountLabel: "c", IntelRdt: &specs.LinuxIntelRdt{},
			Personality: &specs.LinuxPersonality{Flags: []specs.LinuxPersonalityFlag{"ADDR_NO_RANDOMIZE"}},
			Resources: &specs.LinuxResources{
				Network: &specs.LinuxNetwork{},
				CPU:     &specs.LinuxCPU{RealtimePeriod: new(uint64(1))},
				Memory:  &specs.LinuxMemory{Swappiness: new(uint64(1)), DisableOOMKiller: new(true), KernelTCP: new(int64(1))},
				BlockIO: &specs.LinuxBlockIO{LeafWeight: new(uint16(1))},
			},
		},
	}
	got := strings.Join(ignored(s), "\n")
	for _, field := range []string{
		"apparmorProfile", "selinuxLabel", "username", "CAP_NOT_YET", "mountLabel", "intelRdt", "ADDR_NO_RANDOMIZE",
		"network", "realtime", "swappiness", "disableOOMKiller", "memory.kernel", "leafWeight",
	} {
		if !strings.Contains(got, field) {
			t.Errorf("%s is not named in\n%s", field, got)
		}
	}
	quiet := &specs.Spec{Process: &specs.Process{User: specs.User{Username: "joe"}}, Linux: &specs.Linux{Resources: &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: new(int64(1)), DisableOOMKiller: new(false)},
	}}}
	if got := ignored(quiet); len(got) > 0 {
		t.Errorf("nothing is ignored, but %q", got)
	}
}

func TestCgroupsBelongToTheUserWhoManagesThem(t *testing.T) {
	own := []specs.LinuxNamespace{{Type: specs.CgroupNamespace}}
	writable, readonly := []specs.Mount{{Type: "cgroup"}}, []specs.Mount{{Type: "cgroup", Options: []string{"ro"}}}
	mapped := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 5000, Size: 10}}
	for _, c := range []struct {
		name       string
		namespaces []specs.LinuxNamespace
		mounts     []specs.Mount
		mappings   []specs.LinuxIDMapping
		user       uint32
		uid        int
		owned      bool
	}{
		{"root", own, writable, nil, 0, 0, false},
		{"user", own, writable, nil, 7, 7, true},
		{"mapped root", own, writable, mapped, 0, 5000, true},
		{"mapped user", own, writable, mapped, 9, 5009, true},
		{"user who is not mapped", own, writable, mapped, 10, 0, false},
		{"read-only", own, readonly, mapped, 0, 0, false},
		{"no mount", own, nil, mapped, 0, 0, false},
		{"the guest's namespace", nil, writable, mapped, 0, 0, false},
		{"another's namespace", []specs.LinuxNamespace{{Type: specs.CgroupNamespace, Path: "/x"}}, writable, mapped, 0, 0, false},
	} {
		s := &specs.Spec{Process: &specs.Process{User: specs.User{UID: c.user}}, Mounts: c.mounts,
			Linux: &specs.Linux{Namespaces: c.namespaces, UIDMappings: c.mappings}}
		if uid, owned := cgroupOwner(s); uid != c.uid || owned != c.owned {
			t.Errorf("%s: %d, %v", c.name, uid, owned)
		}
	}
}
