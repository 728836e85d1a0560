package hostnet

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// dialInside dials from within a namespace.
func dialInside(path, address string) (conn net.Conn, err error) {
	err = inside(path, func(*netlink.Handle) (err error) {
		conn, err = net.Dial("tcp", address)
		return err
	})
	return conn, err
}

func TestAListenerTakesEveryPortOfItsNamespace(t *testing.T) {
	path, peer := namespace(t)
	in(t, path, "ip", "link", "set", "lo", "up")
	in(t, path, "ip", "addr", "add", "10.1.0.2/24", "dev", "eth0")
	in(t, peer, "ip", "addr", "add", "10.1.0.1/24", "dev", "peer0")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"127.0.0.1:80", "127.1.2.3:65535", "[::1]:443", "10.1.0.2:1"} {
		conn, err := dialInside(path, address)
		if err != nil {
			t.Fatal(err)
		}
		taken, err := l.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		if got := taken.LocalAddr().String(); got != address {
			t.Errorf("dialled %s, and it is %s", address, got)
		}
		_, _ = fmt.Fprint(taken, "hello")
		_ = taken.Close()
		got := make([]byte, 6)
		if n, _ := conn.Read(got); string(got[:n]) != "hello" {
			t.Errorf("%s: %q", address, got)
		}
		_ = conn.Close()
	}
	if err := l.Pass(netip.MustParseAddr("127.0.0.11")); err != nil {
		t.Fatal(err)
	}
	if conn, err := dialInside(path, "127.0.0.11:80"); err == nil {
		_ = conn.Close()
		t.Error("what was passed is taken")
	}
	if conn, err := dialInside(path, "127.0.0.12:80"); err != nil {
		t.Error(err)
	} else {
		_ = conn.Close()
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if conn, err := dialInside(path, "127.0.0.1:80"); err == nil {
		_ = conn.Close()
		t.Error("there is a listener after its end")
	}
}

// What the listener is made of does not outlive it, nor keep it in being.
func TestAListenersNamespaceEndsWithIt(t *testing.T) {
	path, _ := namespace(t)
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ip(t, "netns", "del", filepath.Base(path))
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
}
