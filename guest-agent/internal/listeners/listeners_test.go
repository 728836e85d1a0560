package listeners

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// bound is the address of a socket, as the tables have it.
func bound(a net.Addr) netip.AddrPort {
	var at netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		at = a.AddrPort()
	case *net.UDPAddr:
		at = a.AddrPort()
	}
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

func TestWhoListensIsInTheList(t *testing.T) {
	var tables Tables
	for _, address := range []string{"127.0.0.1:0", "127.9.8.7:0", "0.0.0.0:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Log(err)
			continue
		}
		want := Listener{AddrPort: bound(l.Addr())}
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		all, err := tables.List("/proc")
		if err != nil || !slices.Contains(all, want) {
			t.Errorf("%v, %v; want %s", all, err, want)
		}
		if own := (Listener{AddrPort: bound(c.LocalAddr())}); slices.Contains(all, own) {
			t.Errorf("%s listens not", own)
		}
		_ = l.Close()
		if all, err := tables.List("/proc"); err != nil || slices.Contains(all, want) {
			t.Errorf("%v, %v; without %s", all, err, want)
		}
		_ = c.Close()
	}
}

// outOfRange is a port that the kernel does not choose.
const outOfRange = ":20053"

func TestWhoTakesDatagramsIsInTheList(t *testing.T) {
	var tables Tables
	for _, ip := range []string{"127.9.8.7", "0.0.0.0", "[::1]"} {
		c, err := net.ListenPacket("udp", ip+outOfRange)
		if err != nil {
			t.Log(err)
			continue
		}
		want := Listener{bound(c.LocalAddr()), true}
		if all, err := tables.List("/proc"); err != nil || !slices.Contains(all, want) {
			t.Errorf("%v, %v; want %s", all, err, want.AddrPort)
		}
		_ = c.Close()
		if all, err := tables.List("/proc"); err != nil || slices.Contains(all, want) {
			t.Errorf("%v, %v; without %s", all, err, want.AddrPort)
		}
	}
}

func TestClientsOfUDPAreNot(t *testing.T) {
	var tables Tables
	chosen, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer chosen.Close()
	connected, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1"+outOfRange)), chosen.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer connected.Close()
	all, err := tables.List("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Addr{chosen.LocalAddr(), connected.LocalAddr()} {
		if slices.Contains(all, Listener{bound(c), true}) {
			t.Errorf("%s is no server", c)
		}
	}
}

// Some servers connect the socket with the first who sends.
func TestAServerThatGetsAPeerStays(t *testing.T) {
	dir := t.TempDir()
	write := func(path, text string) {
		t.Helper()
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n"
	const tail = " 00000000:00000000 00:00000000 00000000     0        0 7 2 0000000000000000 0\n"
	write("sys/net/ipv4/ip_local_port_range", "32768\t60999\n")
	var tables Tables
	server := Listener{netip.MustParseAddrPort("0.0.0.0:80"), true}
	for _, step := range []struct {
		line string
		want []Listener
	}{
		{"0: 0100007F:0050 0100007F:9000 01", nil},
		{"0: 00000000:0050 00000000:0000 07", []Listener{server}},
		{"0: 0100007F:0050 0100007F:9000 01", []Listener{server}},
	} {
		line := step.line
		if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
			line = strings.ReplaceAll(line, "0100007F", "7F000001")
		}
		write("net/udp", head+line+tail)
		if all, err := tables.List(dir); err != nil || !slices.Equal(all, step.want) {
			t.Errorf("%s: %v, %v", step.line, all, err)
		}
	}
	write("net/udp", head)
	if all, err := tables.List(dir); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
}
