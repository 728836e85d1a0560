package hostnet

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestNameServersOfLoopback(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	for text, want := range map[string]string{
		"# nameserver 127.0.0.1\nsearch example\nnameserver\nnameserver x\nnameserver 127.0.0.11 \n": "[127.0.0.11]",
		"nameserver 192.0.2.1\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 127.0.0.11":         "[127.0.0.53]",
		"nameserver 127.0.0.1\n\tnameserver 127.0.0.1":                                               "[127.0.0.1]",
		"": "[]",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := NameServers(path); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	if got, err := NameServers(path + "x"); got != nil || err != nil {
		t.Errorf("%v, %v", got, err)
	}
	if err := unix.Mkfifo(path+"y", 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := NameServers(path + "y"); got != nil || err != nil {
		t.Errorf("%v, %v", got, err)
	}
}

func FuzzNameServers(f *testing.F) {
	f.Add("nameserver 127.0.0.11\noptions ndots:0\n")
	f.Add("nameserver 127.0.0.1\nnameserver ::ffff:127.0.0.1\nnameserver 127.1\nnameserver 10.0.0.1")
	f.Fuzz(func(t *testing.T, text string) {
		list := loopbackNameServers(strings.NewReader(text))
		if len(list) > maxNames {
			t.Error(list)
		}
		for _, ip := range list {
			if !ip.Is4() || !ip.IsLoopback() || !strings.Contains(text, ip.String()) {
				t.Error(ip)
			}
		}
	})
}

func TestANameServerOfANamespaceIsDialledThere(t *testing.T) {
	path, _ := namespace(t)
	in(t, path, "ip", "link", "set", "lo", "up")
	ip := netip.MustParseAddr("127.0.0.11")
	var server net.PacketConn
	err := inside(path, func(*netlink.Handle) (err error) {
		server, err = net.ListenPacket("udp", "127.0.0.11:53")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	conn, err := DialNameServer(path, "udp", ip)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = conn.Write([]byte("question"))
	buf := make([]byte, 100)
	n, from, err := server.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "question" || from.String() != conn.LocalAddr().String() {
		t.Errorf("%q from %v, %v", buf[:n], from, err)
	}
	if _, err := DialNameServer(path, "tcp", ip); err == nil || !strings.Contains(err.Error(), "127.0.0.11") {
		t.Errorf("%v", err)
	}
}
