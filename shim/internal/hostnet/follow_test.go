package hostnet

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
)

// follow connects a namespace, with a spare device, and follows it.
func follow(t *testing.T, path string) (*Network, *Follower) {
	t.Helper()
	n, err := Connect(path, KeyOf("a"), 1, Spares{Count: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	f, err := Follow(path, KeyOf("a"), n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return n, f
}

// changes waits until the namespace differs from what was told, and returns what is to be told.
func changes(t *testing.T, f *Follower) *agentv1.ConfigureNetworkRequest {
	t.Helper()
	for f.Wait() {
		request, _, err := f.Sync()
		if err != nil {
			t.Fatal(err)
		}
		if request != nil {
			return request
		}
	}
	t.Fatal("there is no more to wait for")
	return nil
}

func TestAddressesAndRoutesAreFollowed(t *testing.T) {
	path, _ := namespace(t)
	in(t, path, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6") // whose addresses come by themselves
	in(t, path, "ip", "addr", "add", "10.1.0.2/24", "dev", "eth0")
	n, f := follow(t, path)
	if request, _, err := f.Sync(); request != nil || err != nil {
		t.Fatalf("without a change: %v, %v", request, err)
	}
	in(t, path, "ip", "addr", "add", "10.2.0.2/24", "dev", "eth0")
	if r := changes(t, f); r.Gone != nil || len(r.Interfaces) != 1 || len(r.Interfaces[0].Addresses) != 2 || !bytes.Equal(r.Interfaces[0].Device, n.Taps[0].MAC) {
		t.Errorf("a new address: %v", r)
	}
	in(t, path, "ip", "route", "add", "default", "via", "10.2.0.1")
	if r := changes(t, f); r.Gone != nil || len(r.Interfaces) != 0 || len(r.Routes) != 1 || !bytes.Equal(r.Routes[0].Gateway, []byte{10, 2, 0, 1}) {
		t.Errorf("a new route: %v", r)
	}
	in(t, path, "ip", "route", "replace", "default", "via", "10.1.0.1")
	if r := changes(t, f); len(r.Routes) != 1 || len(r.Gone.GetRoutes()) != 1 || !bytes.Equal(r.Gone.Routes[0].Gateway, []byte{10, 2, 0, 1}) {
		t.Errorf("another route: %v", r)
	}
	in(t, path, "ip", "addr", "del", "10.2.0.2/24", "dev", "eth0")
	if r := changes(t, f); len(r.Gone.GetInterfaces()) != 1 || !bytes.Equal(r.Gone.Interfaces[0].Addresses[0].Ip, []byte{10, 2, 0, 2}) {
		t.Errorf("an address less: %v", r)
	}
	in(t, path, "ip", "link", "set", "eth0", "mtu", "1400")
	if r := changes(t, f); len(r.Interfaces) != 1 || r.Interfaces[0].Mtu != 1400 || !strings.Contains(in(t, path, "ip", "link", "show", KeyOf("a").tapName(0)), "mtu 1400") {
		t.Errorf("another MTU: %v", r)
	}
}

func TestInterfacesComeAndGo(t *testing.T) {
	path, peer := namespace(t)
	before := traces(t, path)
	n, f := follow(t, path)
	spare := n.Taps[1].MAC
	for range 3 {
		in(t, path, "ip", "link", "add", "eth1", "type", "veth", "peer", "name", "peer1", "netns", filepath.Base(peer))
		in(t, path, "ip", "link", "set", "eth1", "up")
		r := changes(t, f)
		if len(r.Interfaces) != 1 || r.Interfaces[0].Name != "eth1" || !bytes.Equal(r.Interfaces[0].Device, spare) {
			t.Fatalf("a new interface: %v", r)
		}
		if counted, err := f.Count(); err != nil || len(counted) != 2 || counted[1].Name != "eth1" {
			t.Errorf("counted are %v, %v", counted, err)
		}
		// A further one finds no device; what there is stays.
		in(t, path, "ip", "link", "add", "eth2", "type", "veth", "peer", "name", "peer2", "netns", filepath.Base(peer))
		in(t, path, "ip", "link", "set", "eth2", "up")
		for {
			f.Wait()
			if r, _, err := f.Sync(); err != nil {
				if r != nil || !strings.Contains(err.Error(), "interface eth2") || !strings.Contains(err.Error(), "spare_interfaces") {
					t.Fatalf("%v, %v", r, err)
				}
				break
			}
		}
		in(t, path, "ip", "link", "del", "eth2")
		in(t, path, "ip", "link", "del", "eth1")
		if r := changes(t, f); len(r.Interfaces) != 1 || r.Interfaces[0].Name != "" || !bytes.Equal(r.Interfaces[0].Device, spare) {
			t.Fatalf("an interface less: %v", r)
		}
	}
	f.Close()
	n.Close()
	if err := Disconnect(path, KeyOf("a")); err != nil {
		t.Fatal(err)
	}
	if after := traces(t, path); after != before {
		t.Errorf("left:\n%s\nwas:\n%s", after, before)
	}
	if f.Wait() {
		t.Error("there is more to wait for after the end")
	}
}
