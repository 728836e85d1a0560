package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/guest-agent/internal/stream"
)

// host is the other end of the guest's dials: a unix socket that takes every id.
func host(t *testing.T) (stream.Dial, <-chan *net.UnixConn) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	arrived := make(chan *net.UnixConn, 1)
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			id := make([]byte, 3)
			_, _ = io.ReadFull(c, id)
			_, _ = c.Write([]byte{1})
			arrived <- c
		}
	}()
	return func(context.Context) (stream.Conn, error) {
		return net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	}, arrived
}

// server answers with what it got in upper case, once it has got all.
func server(t *testing.T, address string) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) {
		t.Skip("no IPv6 here: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all, _ := io.ReadAll(c)
			_, _ = io.WriteString(c, strings.ToUpper(string(all)))
			_ = c.Close()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

func TestBothDirectionsAndTheirEndsPass(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(address, func(t *testing.T) {
			port := server(t, address)
			dial, arrived := host(t)
			// In either case for who asked for IPv4's localhost.
			to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
			if err := Connect(t.Context(), dial, to, "id"); err != nil {
				t.Fatal(err)
			}
			c := <-arrived
			defer c.Close()
			text := strings.Repeat("text ", 100000)
			if _, err := io.WriteString(c, text); err != nil {
				t.Fatal(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(c); err != nil || string(got) != strings.ToUpper(text) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}

func TestWhereNobodyListensThereIsNoStream(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	to := l.Addr().(*net.TCPAddr).AddrPort()
	_ = l.Close()
	dial, arrived := host(t)
	if err := Connect(t.Context(), dial, to, "id"); !errors.Is(err, unix.ECONNREFUSED) || !strings.Contains(err.Error(), to.String()) {
		t.Errorf("%v", err)
	}
	if len(arrived) > 0 {
		t.Error("the host was dialled")
	}
}
