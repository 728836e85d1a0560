package netcfg

import (
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	"golang.org/x/sys/unix"
)

// inNamespace runs f in a new network namespace with the interfaces eth0 and eth1, on a thread that ends with it.
func inNamespace(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces are root's")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		ip(t, "link", "add", "eth0", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "peer0")
		ip(t, "link", "add", "eth1", "address", "02:00:00:00:00:02", "type", "veth", "peer", "name", "peer1")
		ip(t, "link", "set", "peer0", "up")
		ip(t, "link", "set", "peer1", "up")
		f()
	}()
	<-done
}

func ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Errorf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func mac(last byte) []byte { return []byte{2, 0, 0, 0, 0, last} }

func four(s string) []byte { return net.ParseIP(s).To4() }
func six(s string) []byte  { return net.ParseIP(s).To16() }

func request1() *agentv1.ConfigureNetworkRequest {
	return &agentv1.ConfigureNetworkRequest{
		Interfaces: []*agentv1.Interface{
			{Device: mac(2), Name: "eth0", Mac: mac(2), Mtu: 1450, Ipv6: true, Addresses: []*agentv1.Interface_Prefix{
				{Ip: four("10.1.0.2"), Length: 24, Broadcast: four("10.1.0.255")},
				{Ip: six("fd00::2"), Length: 64},
			}},
			{Device: mac(1), Name: "data", Mac: mac(9), Mtu: 9000, NoArp: true, Addresses: []*agentv1.Interface_Prefix{
				{Ip: four("192.0.2.1"), Length: 32, Peer: four("192.0.2.9")},
			}},
		},
		Routes: []*agentv1.Route{
			{Interface: "data", Destination: four("198.51.100.0"), DestinationLength: 24, Scope: unix.RT_SCOPE_LINK, Mtu: 1300},
			{Destination: four("100.64.0.0"), DestinationLength: 10, Type: unix.RTN_BLACKHOLE},
			{Interface: "eth0", Gateway: four("10.1.0.1"), Source: four("10.1.0.2"), Metric: 5},
			{Interface: "data", Destination: four("203.0.113.0"), DestinationLength: 24, Gateway: four("169.254.1.1"), Onlink: true},
			{Interface: "eth0", Destination: four("203.0.114.0"), DestinationLength: 24, Gateway: six("fe80::1")},
			{Interface: "eth0", Ipv6: true, Gateway: six("fd00::1")},
		},
		Neighbours: []*agentv1.Neighbour{
			{Interface: "eth0", Ip: four("10.1.0.1"), Mac: mac(7)}, {Interface: "eth0", Ip: six("fd00::1"), Mac: mac(7)},
		},
	}
}

func TestConfigureTwiceIsConfigureOnce(t *testing.T) {
	inNamespace(t, func() {
		var n Interfaces
		for range 2 {
			if err := n.Configure(request1()); err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range []struct{ args, line string }{
			{"-o link show eth0", "mtu 1450"},
			{"-o link show eth0", "link/ether 02:00:00:00:00:02"},
			{"-o link show data", "NOARP"},
			{"-o link show data", "link/ether 02:00:00:00:00:09"},
			{"-4 addr show eth0", "inet 10.1.0.2/24 brd 10.1.0.255"},
			{"-4 addr show data", "inet 192.0.2.1 peer 192.0.2.9/32"},
			{"-6 addr show eth0", "inet6 fd00::2/64 scope global nodad"},
			{"route", "default via 10.1.0.1 dev eth0 proto static src 10.1.0.2 metric 5"},
			{"route", "198.51.100.0/24 dev data proto static scope link mtu 1300"},
			{"route", "203.0.113.0/24 via 169.254.1.1 dev data proto static onlink"},
			{"route", "203.0.114.0/24 via inet6 fe80::1 dev eth0 proto static"},
			{"route show type blackhole", "100.64.0.0/10"},
			{"-6 route", "default via fd00::1 dev eth0 proto static"},
			{"neigh", "10.1.0.1 dev eth0 lladdr 02:00:00:00:00:07 PERMANENT"},
			{"neigh", "fd00::1 dev eth0 lladdr 02:00:00:00:00:07 PERMANENT"},
		} {
			got := ip(t, strings.Fields(want.args)...)
			if strings.Count(strings.Join(strings.Fields(got), " "), want.line) != 1 {
				t.Errorf("ip %s:\n%swant once: %s", want.args, got, want.line)
			}
		}
		if got := ip(t, "-6", "addr", "show", "dev", "eth0", "tentative"); strings.Contains(got, "tentative") {
			t.Errorf("addresses that are not usable yet:\n%s", got)
		}
		if got := ip(t, "-6", "addr", "show", "data"); got != "" {
			t.Errorf("IPv6 where there is to be none:\n%s", got)
		}
	})
}

// What the host says is gone goes; what has gone by itself is no error, and the guest's own additions stay.
func TestConfigureRemovesWhatIsGone(t *testing.T) {
	inNamespace(t, func() {
		var n Interfaces
		if err := n.Configure(request1()); err != nil {
			t.Fatal(err)
		}
		ip(t, "addr", "add", "10.1.0.9/24", "dev", "eth0")
		ip(t, "route", "add", "10.9.0.0/16", "via", "10.1.0.1")
		all := request1()
		gone := &agentv1.ConfigureNetworkRequest{
			Interfaces: []*agentv1.Interface{
				{Name: "eth0", Addresses: all.Interfaces[0].Addresses[1:]}, {Name: "data", Addresses: all.Interfaces[1].Addresses}, {Name: "nope"},
			},
			Routes: all.Routes[1:4], Neighbours: all.Neighbours[:1],
		}
		for range 2 {
			if err := n.Configure(&agentv1.ConfigureNetworkRequest{Gone: gone}); err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range []struct {
			args, line string
			there      bool
		}{
			{"-6 addr show eth0", "fd00::2/64", false},
			{"-4 addr show data", "192.0.2.1", false},
			{"-4 addr show eth0", "10.1.0.2/24", true},
			{"-4 addr show eth0", "10.1.0.9/24", true},
			{"route", "10.9.0.0/16 via 10.1.0.1", true},
			{"route", "default", false},
			{"route", "203.0.113.0/24", false},
			{"route", "203.0.114.0/24", true},
			{"route show type blackhole", "100.64.0.0/10", false},
			{"neigh", "10.1.0.1 dev eth0 lladdr", false},
			{"neigh", "fd00::1 dev eth0 lladdr", true},
		} {
			if got := ip(t, strings.Fields(want.args)...); strings.Contains(got, want.line) != want.there {
				t.Errorf("ip %s:\n%s%s: want %t", want.args, got, want.line, want.there)
			}
		}
	})
}

func TestErrorsNameWhatIsWrong(t *testing.T) {
	for want, change := range map[string]func(*agentv1.ConfigureNetworkRequest){
		"02:00:00:00:00:63": func(r *agentv1.ConfigureNetworkRequest) { r.Interfaces[0].Device = mac(0x63) },
		"10.1.0.2/77":       func(r *agentv1.ConfigureNetworkRequest) { r.Interfaces[0].Addresses[0].Length = 77 },
		"through 10.9.9.9":  func(r *agentv1.ConfigureNetworkRequest) { r.Routes[2].Gateway = four("10.9.9.9") },
		"interface nope":    func(r *agentv1.ConfigureNetworkRequest) { r.Routes[2].Interface = "nope" },
		"MTU 1":             func(r *agentv1.ConfigureNetworkRequest) { r.Interfaces[0].Mtu = 1 },
	} {
		inNamespace(t, func() {
			r := request1()
			change(r)
			if err := new(Interfaces).Configure(r); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
}
