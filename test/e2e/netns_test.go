package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// cniPlugins is where Debian has them.
const cniPlugins = "/usr/lib/cni"

// netns is a network namespace as an orchestrator makes one for a pod.
type netns struct {
	t    *testing.T
	name string
	adds []cniCall // in order
}

type cniCall struct {
	ifname string
	config map[string]any
}

// newNetns makes a namespace that lasts as long as the test.
func newNetns(t *testing.T) *netns {
	t.Helper()
	n := &netns{t: t, name: newID(t)}
	output(t, "ip", "netns", "add", n.name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", n.name).Run() })
	n.add("lo", map[string]any{"type": "loopback"})
	return n
}

func (n *netns) path() string { return filepath.Join("/run/netns", n.name) }

// flags are those of ctr run for a container in the namespace.
func (n *netns) flags(more ...string) []string {
	return append([]string{"--with-ns", "network:" + n.path()}, more...)
}

// run runs a host command in the namespace.
func (n *netns) run(args ...string) string {
	n.t.Helper()
	return output(n.t, "ip", append([]string{"netns", "exec", n.name}, args...)...)
}

// traces is all that a sandbox might leave in the namespace.
func (n *netns) traces() string {
	n.t.Helper()
	return n.run("sh", "-ec", "ip -o link | cut -d: -f2; ip -o addr | awk '{print $2, $4}'; ip route; tc qdisc; for i in $(ls /sys/class/net); do tc filter show dev $i ingress; done")
}

// unchanged waits until the namespace is as it was.
func (n *netns) unchanged(before string) {
	n.t.Helper()
	eventually(n.t, "nothing is left in the namespace", func() bool { return n.traces() == before })
}

// cniResult is of what a plugin prints as much as the tests look at.
type cniResult struct {
	IPs []struct {
		Address string `json:"address"`
		Gateway string `json:"gateway"`
	} `json:"ips"`
}

// address is the interface's first of a family.
func (r cniResult) address(t *testing.T, v6 bool) (own, gateway string) {
	t.Helper()
	for _, ip := range r.IPs {
		own, _, err := net.ParseCIDR(ip.Address)
		if err != nil {
			t.Fatal(err)
		}
		if (own.To4() == nil) == v6 {
			return own.String(), ip.Gateway
		}
	}
	t.Fatalf("no address in %+v", r)
	return "", ""
}

// add runs the plugins of a list for one interface, as a container engine does; the end of the test deletes it.
func (n *netns) add(ifname string, plugins ...map[string]any) cniResult {
	n.t.Helper()
	var result json.RawMessage
	for _, p := range plugins {
		config := maps.Clone(p)
		maps.Copy(config, map[string]any{"cniVersion": "1.0.0", "name": "husk-test"})
		if result != nil {
			config["prevResult"] = result
		}
		out, err := n.cni("ADD", ifname, config)
		if err != nil {
			n.t.Fatal(err)
		}
		if len(out) > 0 {
			result = out
		}
		n.t.Cleanup(func() { _, _ = n.cni("DEL", ifname, config) })
		n.adds = append(n.adds, cniCall{ifname, config})
	}
	var r cniResult
	if err := json.Unmarshal(result, &r); err != nil {
		n.t.Fatalf("%v: %s", err, result)
	}
	return r
}

// del undoes every add.
func (n *netns) del() {
	n.t.Helper()
	for i := len(n.adds) - 1; i >= 0; i-- {
		if _, err := n.cni("DEL", n.adds[i].ifname, n.adds[i].config); err != nil {
			n.t.Error(err)
		}
	}
}

func (n *netns) cni(command, ifname string, config map[string]any) ([]byte, error) {
	stdin, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(cniPlugins, config["type"].(string)))
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+command, "CNI_CONTAINERID="+n.name, "CNI_NETNS="+n.path(),
		"CNI_IFNAME="+ifname, "CNI_PATH="+cniPlugins)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("CNI %s of %s: %w: %s%s", command, config["type"], err, out, &stderr)
	}
	return out, nil
}

// bridgeNumber keeps the networks of different tests apart.
var bridgeNumber = 100

// bridge is the configuration of a network of its own, with both families. The host has the gateway's addresses.
func bridge(t *testing.T, mtu int) map[string]any {
	t.Helper()
	bridgeNumber++
	name := fmt.Sprintf("br%d", bridgeNumber)
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", name).Run() })
	return map[string]any{
		"type": "bridge", "bridge": name, "isGateway": true, "mtu": mtu,
		"ipam": map[string]any{
			"type": "host-local", "dataDir": t.TempDir(),
			"ranges": []any{
				[]any{map[string]any{"subnet": fmt.Sprintf("10.88.%d.0/24", bridgeNumber)}},
				[]any{map[string]any{"subnet": fmt.Sprintf("fd00:88:%d::/64", bridgeNumber)}},
			},
			"routes": []any{map[string]any{"dst": "0.0.0.0/0"}, map[string]any{"dst": "::/0"}},
		},
	}
}
