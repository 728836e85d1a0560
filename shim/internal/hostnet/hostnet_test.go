package hostnet

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// namespace makes a network namespace with one interface, eth0, whose peer is in another one.
func namespace(t *testing.T) (path, peer string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces are root's")
	}
	name := fmt.Sprintf("husk-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	for _, n := range []string{name, name + "-peer"} {
		ip(t, "netns", "add", n)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", n).Run() })
	}
	path, peer = filepath.Join("/run/netns", name), filepath.Join("/run/netns", name+"-peer")
	in(t, path, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "peer0", "netns", filepath.Base(peer))
	in(t, path, "ip", "link", "set", "eth0", "up")
	in(t, peer, "ip", "link", "set", "peer0", "up")
	return path, peer
}

func ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func in(t *testing.T, path string, args ...string) string {
	t.Helper()
	return ip(t, append([]string{"netns", "exec", filepath.Base(path)}, args...)...)
}

func connect(t *testing.T, path, sandbox string) *Network {
	t.Helper()
	n, err := Connect(path, KeyOf(sandbox), 1, Spares{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

// traces is what is in a namespace, without what counts.
func traces(t *testing.T, path string) string {
	t.Helper()
	return in(t, path, "sh", "-ec", "ip -o link | cut -d: -f2; tc qdisc; for i in $(ls /sys/class/net); do tc filter show dev $i ingress; done")
}

// header is what a tap has before each frame.
const header = 10

func TestFramesGoBothWaysUnchanged(t *testing.T) {
	path, peer := namespace(t)
	n := connect(t, path, "a")
	if len(n.Taps) != 1 || n.Config.Interfaces[0].Name != "eth0" || !bytes.Equal(n.Config.Interfaces[0].Mac, n.Taps[0].MAC) {
		t.Fatalf("%+v, %v", n.Taps, n.Config)
	}
	// VLAN tags and protocols that nobody knows are frames like any other.
	for _, frame := range [][]byte{
		append(addressed(n.Taps[0].MAC, 0x88, 0xb5), bytes.Repeat([]byte{0xa5}, 60)...),
		append(addressed(n.Taps[0].MAC, 0x81, 0x00, 0x00, 0x2a, 0x88, 0xb5), bytes.Repeat([]byte{0x5a}, 1400)...),
		append(addressed(net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 0x88, 0xb5), 1, 2, 3, 4),
	} {
		send(t, peer, frame)
		if got := receive(t, n.Taps[0].Files[0], frame); !got {
			t.Errorf("a frame of %d bytes did not get to the tap", len(frame))
		}
	}
	out := append(addressed(net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 0x88, 0xb6), bytes.Repeat([]byte{7}, 100)...)
	wire := listen(t, peer)
	if _, err := n.Taps[0].Files[0].Write(append(make([]byte, header), out...)); err != nil {
		t.Fatal(err)
	}
	expect(t, wire, out)
}

// expect reads until the frame comes.
func expect(t *testing.T, wire int, frame []byte) {
	t.Helper()
	buf := make([]byte, 2000)
	for {
		size, _, err := unix.Recvfrom(wire, buf, 0)
		if err != nil {
			t.Fatalf("the frame did not get to the wire: %v", err)
		}
		if bytes.Equal(buf[:size], frame) {
			return
		}
	}
}

// Every queue of a tap, of spare ones too, is the interface's.
func TestATapHasItsQueues(t *testing.T) {
	path, peer := namespace(t)
	n, err := Connect(path, KeyOf("a"), 3, Spares{Count: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	if len(n.Taps) != 2 || len(n.Taps[0].Files) != 3 || len(n.Taps[1].Files) != 3 {
		t.Fatalf("%+v", n.Taps)
	}
	if err := (&tap{files: n.Taps[0].Files}).steer(); err != nil { // which is no error of Connect's
		t.Error(err)
	}
	wire := listen(t, peer)
	for i, queue := range n.Taps[0].Files {
		out := append(addressed(net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 0x88, 0xb6), bytes.Repeat([]byte{byte(i)}, 100)...)
		if _, err := queue.Write(append(make([]byte, header), out...)); err != nil {
			t.Fatal(err)
		}
		expect(t, wire, out)
	}
	n.Close()
	if got := in(t, path, "ip", "-o", "link"); strings.Contains(got, KeyOf("a").tapName(0)) {
		t.Errorf("a tap stays without its queues: %s", got)
	}
}

func TestQueuesFollowTheVCPUs(t *testing.T) {
	for vcpus, want := range map[int]int{0: 1, 1: 1, 2: 2, 8: 8, 9: 8, 1 << 20: 8} {
		if got := Queues(vcpus); got != want {
			t.Errorf("%d vCPUs: %d queues, want %d", vcpus, got, want)
		}
	}
}

func addressed(to net.HardwareAddr, protocol ...byte) []byte {
	return append(append(bytes.Clone(to), 2, 0, 0, 0, 0, 9), protocol...)
}

// listen is a packet socket on peer0.
func listen(t *testing.T, peer string) (fd int) {
	t.Helper()
	err := inside(peer, func(h *netlink.Handle) error {
		link, err := h.LinkByName("peer0")
		if err != nil {
			return err
		}
		const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		return errors.Join(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Attrs().Index}),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func send(t *testing.T, peer string, frame []byte) {
	t.Helper()
	if _, err := unix.Write(listen(t, peer), frame); err != nil {
		t.Fatal(err)
	}
}

// receive reads the tap until the frame comes.
func receive(t *testing.T, tap *os.File, want []byte) bool {
	t.Helper()
	buf := make([]byte, 70000)
	for {
		p := []unix.PollFd{{Fd: int32(tap.Fd()), Events: unix.POLLIN}}
		if n, err := unix.Poll(p, 10_000); n == 0 || err != nil && err != unix.EINTR {
			return false
		}
		n, err := unix.Read(int(tap.Fd()), buf)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(buf[header:n], want) {
			return true
		}
	}
}

func TestDisconnectNeedsNoState(t *testing.T) {
	path, _ := namespace(t)
	before := traces(t, path)
	n := connect(t, path, "a")
	if traces(t, path) == before {
		t.Fatal("nothing to be seen of the connection")
	}
	// With the taps open still, as by a VMM that has not ended yet, and twice.
	for range 2 {
		if err := Disconnect(path, KeyOf("a")); err != nil {
			t.Fatal(err)
		}
		if after := traces(t, path); after != before {
			t.Errorf("left behind:\n%s\nwas:\n%s", after, before)
		}
	}
	n.Close()
}

func TestDisconnectLeavesOthersAlone(t *testing.T) {
	path, _ := namespace(t)
	in(t, path, "tc", "qdisc", "add", "dev", "eth0", "clsact")
	in(t, path, "tc", "filter", "add", "dev", "eth0", "ingress", "protocol", "ip", "prio", "5", "u32", "match", "ip", "dport", "9", "0xffff", "flowid", "ffff:1")
	before := traces(t, path)
	connect(t, path, "a").Close()
	if err := Disconnect(path, KeyOf("b")); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(traces(t, path), "mirred") {
		t.Error("another sandbox's name removed the filter")
	}
	if err := Disconnect(path, KeyOf("a")); err != nil {
		t.Fatal(err)
	}
	if after := traces(t, path); after != before {
		t.Errorf("is:\n%s\nwas:\n%s", after, before)
	}
}

func TestOnlyOneVMHasAnInterface(t *testing.T) {
	path, _ := namespace(t)
	first := connect(t, path, "a")
	before := traces(t, path)
	if _, err := Connect(path, KeyOf("b"), 1, Spares{}); err == nil || !strings.Contains(err.Error(), "another VM") {
		t.Errorf("a second VM: %v", err)
	}
	if after := traces(t, path); after != before {
		t.Errorf("the second one's failure left\n%s\nwas:\n%s", after, before)
	}
	// Killed, and nobody cleaned up: the tap is gone, the filter is there.
	first.Close()
	connect(t, path, "b")
}

func TestAStaleTapDoesNotBlock(t *testing.T) {
	path, _ := namespace(t)
	in(t, path, "ip", "tuntap", "add", KeyOf("a").tapName(0), "mode", "tap") // persistent, of other flags
	connect(t, path, "a")
	connect(t, path, "a") // the same again, of a shim that was killed before its VMM ended
	if err := Disconnect(path, KeyOf("a")); err != nil {
		t.Fatal(err)
	}
}

func TestTheHostsOwnNamespaceIsLeftAlone(t *testing.T) {
	n, err := Connect("/proc/self/ns/net", KeyOf("a"), 1, Spares{})
	if err != nil || len(n.Taps) != 0 || len(n.Notes) != 1 {
		t.Errorf("%+v, %v", n, err)
	}
	if err := Disconnect("/proc/self/ns/net", KeyOf("a")); err != nil {
		t.Error(err)
	}
}

func TestNamespaceThatIsGone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", file, file + "-not-there"} {
		if err := Disconnect(path, KeyOf("a")); err != nil {
			t.Errorf("%q: %v", path, err)
		}
	}
	if _, err := Connect(file, KeyOf("a"), 1, Spares{}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("connect: %v", err)
	}
}

func TestInterfacesTheGuestDoesNotGet(t *testing.T) {
	path, _ := namespace(t)
	for _, c := range [][]string{
		{"link", "add", "br0", "type", "bridge"}, {"link", "set", "br0", "up"},
		{"link", "add", "port0", "type", "veth", "peer", "name", "port1"}, {"link", "set", "port0", "master", "br0", "up"},
		{"link", "add", "link", "eth0", "name", "eth0.5", "type", "vlan", "id", "5"}, {"link", "set", "eth0.5", "up"},
		{"tuntap", "add", "tun0", "mode", "tun"}, {"link", "set", "tun0", "up"},
	} {
		if out, err := exec.Command("ip", append([]string{"-n", filepath.Base(path)}, c...)...).CombinedOutput(); err != nil {
			t.Logf("ip %s: %s", strings.Join(c, " "), out) // a kernel without that kind
		}
	}
	n := connect(t, path, "a")
	var names []string
	for _, i := range n.Config.Interfaces {
		names = append(names, i.Name)
	}
	if got := strings.Join(names, " "); got != "eth0 br0" {
		t.Errorf("the guest gets %s; %q", got, n.Notes)
	}
}

func TestNoThreadStaysInTheNamespace(t *testing.T) {
	path, _ := namespace(t)
	for range 50 {
		connect(t, path, "a").Close()
		if err := Disconnect(path, KeyOf("a")); err != nil {
			t.Fatal(err)
		}
	}
	there, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	left := 1
	for end := time.Now().Add(10 * time.Second); left > 0 && time.Now().Before(end); {
		left = 0
		threads, _ := filepath.Glob("/proc/self/task/*/ns/net")
		for _, thread := range threads {
			if ns, err := os.Stat(thread); err == nil && os.SameFile(ns, there) {
				left++
			}
		}
	}
	if left > 0 {
		t.Errorf("%d threads are in it", left)
	}
}
