package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// without drops a container's namespace: it shares the guest's.
func without(s *specs.Spec, t specs.LinuxNamespaceType) {
	for i, n := range s.Linux.Namespaces {
		if n.Type == t {
			s.Linux.Namespaces = append(s.Linux.Namespaces[:i:i], s.Linux.Namespaces[i+1:]...)
			return
		}
	}
}

func TestNamespacesAreNewOnlyWhenAskedFor(t *testing.T) {
	s := script(t, `echo $$; hostname; cat /proc/self/cgroup; cat /proc/sys/kernel/domainname`)
	s.Hostname, s.Domainname = "own", "domain"
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	lines(t, s, "1", "own", "0::/", "domain")

	s = script(t, `[ $$ != 1 ] && echo another; cat /proc/1/comm`)
	without(s, specs.PIDNamespace)
	lines(t, s, "another", "init")

	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	s = script(t, `hostname; hostname other && hostname`)
	s.Process.Capabilities.Effective = append(s.Process.Capabilities.Effective, "CAP_SYS_ADMIN")
	s.Process.Capabilities.Permitted = append(s.Process.Capabilities.Permitted, "CAP_SYS_ADMIN")
	s.Process.Capabilities.Bounding = append(s.Process.Capabilities.Bounding, "CAP_SYS_ADMIN")
	lines(t, s, host, "other")
}

func TestAUserNamespaceMapsTheContainersUsers(t *testing.T) {
	s := script(t, `cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; id -u; touch /tmp/made; stat -c %u:%g /tmp/made
		grep CapEff /proc/self/status | tr -d '\t'; mount -t tmpfs tmpfs /mnt 2>/dev/null || echo refused`)
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	s.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 65536}}
	if err := chownTree(s.Root.Path, 100000, 200000); err != nil {
		t.Fatal(err)
	}
	lines(t, s, " 0 100000 65536", " 0 200000 65536", "0", "0:0", "CapEff:00000000a80425fb", "refused")
}

func TestATimeNamespaceMovesTheClocks(t *testing.T) {
	needNewSpec(t)
	s := script(t, `up=$(cut -d. -f1 /proc/uptime); [ $up -ge 1000000 ] && [ $up -lt 1001000 ] && echo moved`)
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1000000}, "monotonic": {Secs: 5}}
	lines(t, s, "moved")
}

func TestSysctlsMasksAndReadOnlyPaths(t *testing.T) {
	s := script(t, `sysctl -n kernel.msgmax net.core.somaxconn net.ipv4.ip_unprivileged_port_start; wc -c < /secret; ls /hidden | wc -l; (echo x > /fixed) 2>&1 | grep -o 'Read-only file system'`)
	for name, text := range map[string]string{"secret": "s", "fixed": "f"} {
		if err := os.WriteFile(s.Root.Path+"/"+name, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(s.Root.Path+"/hidden/inside", 0o755); err != nil {
		t.Fatal(err)
	}
	s.Linux.Sysctl = map[string]string{"kernel.msgmax": "12345", "net.core.somaxconn": "77", "net.ipv4.ip_unprivileged_port_start": "80"}
	s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/secret", "/hidden", "/not/there")
	s.Linux.ReadonlyPaths = append(s.Linux.ReadonlyPaths, "/fixed")
	lines(t, s, "12345", "77", "80", "0", "0", "Read-only file system")
}

func TestASysctlThatIsNoneIsACreateError(t *testing.T) {
	s := script(t, "true")
	s.Linux.Sysctl = map[string]string{"kernel.nosuch": "1"}
	refused(t, bare(t, "io.containerd.husk.v2", s), "kernel.nosuch")
}

// A container without a pid namespace has the agent's, whose PID 1 the kernel protects from signals.
func TestAContainerInTheAgentsPIDNamespaceDoesNotEndIt(t *testing.T) {
	s := script(t, `read name </proc/1/comm; echo $name; for s in $(seq 31); do kill -$s 1; done; sleep 1; echo alive`)
	without(s, specs.PIDNamespace)
	lines(t, s, "init", "alive")
}

func TestDevicesAreMadeAndRulesHold(t *testing.T) {
	s := script(t, `stat -c '%t:%T %a %u:%g' /dev/made; head -c 4 /dev/made | wc -c; (mknod /dev/other c 1 4 && head -c 1 /dev/other) 2>&1 | grep -o 'not permitted'; [ -p /dev/pipe ] && echo fifo`)
	mode, id := os.FileMode(0o620), uint32(1000)
	s.Linux.Devices = append(s.Linux.Devices,
		specs.LinuxDevice{Path: "/dev/made", Type: "c", Major: 1, Minor: 5, FileMode: &mode, UID: &id, GID: &id},
		specs.LinuxDevice{Path: "/dev/pipe", Type: "p", FileMode: &mode})
	lines(t, s, "1:5 620 1000:1000", "4", "not permitted", "fifo")
}

func TestLimitsArriveInTheGuestsCgroup(t *testing.T) {
	s := script(t, `cd /sys/fs/cgroup; for f in memory.max memory.low memory.swap.max cpu.max cpu.weight cpu.max.burst pids.max memory.high hugetlb.2MB.max; do echo $f $(cat $f); done`)
	limit, reservation, swap := int64(64<<20), int64(32<<20), int64(96<<20)
	shares, quota, period, burst, pids := uint64(2048), int64(50000), uint64(100000), uint64(20000), int64(99)
	s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Reservation: &reservation, Swap: &swap}
	s.Linux.Resources.CPU = &specs.LinuxCPU{Shares: &shares, Quota: &quota, Period: &period, Burst: &burst}
	s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids}
	s.Linux.Resources.HugepageLimits = []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}}
	s.Linux.Resources.Unified = map[string]string{"memory.high": "50331648"}
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	s.Mounts = append(s.Mounts, specs.Mount{Type: "cgroup", Source: "cgroup", Destination: "/sys/fs/cgroup", Options: []string{"ro"}})
	lines(t, s, "memory.max 67108864", "memory.low 33554432", "memory.swap.max 33554432", "cpu.max 50000 100000", "cpu.weight 174", // runc's formula since 1.4
		"cpu.max.burst 20000", "pids.max 99", "memory.high 50331648", "hugetlb.2MB.max 4194304")
}

func TestAPrivilegedContainerOwnsItsCgroups(t *testing.T) {
	needFlag(t, "--privileged")
	s := script(t, `mkdir /sys/fs/cgroup/own && echo $$ > /sys/fs/cgroup/own/cgroup.procs && cat /proc/self/cgroup`)
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	s.Mounts = append(s.Mounts, specs.Mount{Type: "cgroup", Source: "cgroup", Destination: "/sys/fs/cgroup", Options: []string{"rw"}})
	lines(t, s, "0::/own")
}

func chownTree(dir string, uid, gid int) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := dir + "/" + e.Name()
		if err := os.Lchown(path, uid, gid); err != nil {
			return err
		}
		if e.IsDir() && !strings.HasPrefix(path, "/proc") {
			if err := chownTree(path, uid, gid); err != nil {
				return err
			}
		}
	}
	return os.Lchown(dir, uid, gid)
}
