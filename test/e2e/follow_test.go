package e2e

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// What changes in the namespace changes in the guest, whose own changes stay.
func TestNetworkThatChangesLater(t *testing.T) {
	before := census(t)
	n, first := newNetns(t), bridge(t, 1500)
	n.add("eth0", first)
	traces := n.traces()
	c := start(t, append(withConfigFlags(t, configuration("spare_interfaces = 1\n")), n.flags("--privileged")...), "sleep", "1000")
	has := func(command, line string, there bool) {
		t.Helper()
		eventually(t, fmt.Sprintf("%s has %s: %t", command, line, there), func() bool {
			got := strings.Join(strings.Fields(c.exec(t, "sh", "-c", command+" || true")), " ")
			return strings.Contains(got, line) == there
		})
	}
	if got := c.exec(t, "sh", "-c", "ip -o link | wc -l"); got != "2\n" {
		t.Errorf("a spare device is to be seen: %s", got)
	}
	_ = c.exec(t, "ip", "addr", "add", "10.77.0.1/32", "dev", "eth0")

	t.Run("an address and routes", func(t *testing.T) {
		gateway := fmt.Sprintf("10.88.%d.1", bridgeNumber)
		n.run("ip", "addr", "add", "10.88.250.2/24", "dev", "eth0")
		n.run("ip", "route", "add", "198.51.100.0/24", "via", gateway)
		has("ip -4 addr show dev eth0", "10.88.250.2/24", true)
		has("ip route", "198.51.100.0/24 via "+gateway+" dev eth0", true)
		// The host reaches the address that came.
		output(t, "ip", "addr", "add", "10.88.250.1/24", "dev", first["bridge"].(string))
		if _, err := net.DialTimeout("tcp", "10.88.250.2:9", deadline); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the guest does not answer: %v", err)
		}
		n.run("ip", "route", "del", "198.51.100.0/24")
		n.run("ip", "addr", "del", "10.88.250.2/24", "dev", "eth0")
		has("ip route", "198.51.100.0/24", false)
		has("ip -4 addr show dev eth0", "10.88.250.2/24", false)
		has("ip -4 addr show dev eth0", "10.77.0.1/32", true)
	})
	// As by docker network connect and disconnect, twice.
	for i := range 2 {
		t.Run(fmt.Sprint("an interface, ", i), func(t *testing.T) {
			second := bridge(t, 1400)
			own, gateway := n.add("eth1", second).address(t, false)
			has("ip -4 addr show dev eth1", own+"/24", true)
			has("cat /sys/class/net/eth1/mtu", "1400", true)
			if got, want := c.exec(t, "cat", "/sys/class/net/eth1/address"), n.run("cat", "/sys/class/net/eth1/address"); got != want {
				t.Errorf("its address is %s, want %s", got, want)
			}
			url, sum := hostServer(t, gateway)
			if got := c.exec(t, "sh", "-c", "wget -q -O- "+url+" | sha256sum"); !strings.HasPrefix(got, sum) {
				t.Errorf("the sum is %s, want %s", got, sum)
			}
			last := n.adds[len(n.adds)-1]
			if _, err := n.cni("DEL", last.ifname, last.config); err != nil {
				t.Fatal(err)
			}
			n.adds = n.adds[:len(n.adds)-1]
			has("ip -o link", "eth1", false)
		})
	}
	t.Run("one interface too many", func(t *testing.T) {
		for _, name := range []string{"x1", "x2"} {
			n.run("ip", "link", "add", name, "type", "veth", "peer", "name", name+"p")
			n.run("ip", "link", "set", name, "up")
		}
		has("ip -o link", "x1", true)
		eventually(t, "the log says so", func() bool {
			log, _ := shared.LogTail(200)
			return strings.Contains(log, "interface x2 came when the VM had no spare device")
		})
		for _, name := range []string{"x1", "x2"} {
			n.run("ip", "link", "del", name)
		}
		has("ip -o link", "x1", false)
	})
	c.end(t)
	n.unchanged(traces)
	n.del()
	_ = exec.Command("ip", "link", "del", first["bridge"].(string)).Run()
	before.Expect(t)
}
