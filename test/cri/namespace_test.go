package cri

import (
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestNamespacesOfAPod(t *testing.T) {
	p := newPod(t, func(c *cri.PodSandboxConfig) {
		c.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.ip_unprivileged_port_start": "80"}
		c.DnsConfig = &cri.DNSConfig{Servers: []string{"192.0.2.53"}, Searches: []string{"svc.test"}, Options: []string{"ndots:5"}}
	})
	config := shell("one", idle)
	config.Linux.SecurityContext.Capabilities = &cri.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
	one, two := p.start(config), p.start(shell("two", idle))
	for kind, same := range map[string]bool{"ipc": true, "uts": true, "net": true, "pid": false, "mnt": false} {
		a, _, _ := one.exec("readlink", "/proc/self/ns/"+kind)
		b, _, _ := two.exec("readlink", "/proc/self/ns/"+kind)
		if a == "" || (a == b) != same {
			t.Errorf("%s namespaces: %q and %q", kind, a, b)
		}
	}
	one.expectOutput("", "hostname other")
	two.expectOutput("other", "hostname")
	one.expectOutput("1", "echo 1 > /dev/shm/x; cat /dev/shm/x")
	two.expectOutput("1", "cat /dev/shm/x")
	one.expectOutput("tmpfs", "awk '$2 == \"/dev/shm\" {print $3}' /proc/mounts")
	one.expectOutput("65536", "df -k /dev/shm | tail -1 | awk '{print $2}'")
	two.expectOutput("1", "cat /proc/sys/kernel/shm_rmid_forced")
	two.expectOutput("80", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start")
	two.expectOutput("search svc.test\nnameserver 192.0.2.53\noptions ndots:5", "cat /etc/resolv.conf")
	// The pid namespaces are apart: one does not see what the other runs.
	two.expectOutput("1", "ps -o comm | grep -cx sleep")
}

func TestShareProcessNamespace(t *testing.T) {
	p := newPod(t, func(c *cri.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	})
	sharing := func(name, script string) *cri.ContainerConfig {
		config := shell(name, script)
		config.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
		return config
	}
	one, two := p.start(sharing("one", "sleep 1111")), p.start(sharing("two", idle))
	two.expectOutput("1", "ps | grep -c '[s]leep 1111'")
	two.expectOutput("yes", "test $$ -ne 1 && echo yes")
	// The end of one is not the other's, and takes all of its own along.
	two.expectOutput("", "kill $(ps -o pid,args | awk '/[s]leep 1111/ {print $1}')")
	one.expectExit(143)
	two.expectOutput("0", "ps | grep -c '[s]leep 1111' || true")
}
