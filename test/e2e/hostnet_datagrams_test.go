package e2e

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// asker sends datagrams from a socket of its own to an address, from which alone it takes answers.
func asker(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.Dial("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// answers says whether what is sent comes back in upper case.
func answers(c net.Conn, text string) bool {
	buf := make([]byte, 1<<16)
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Write([]byte(text)); err != nil {
		return false
	}
	n, err := c.Read(buf)
	return err == nil && string(buf[:n]) == strings.ToUpper(text)
}

// echoes waits until an address is served.
func echoes(t *testing.T, address string) {
	t.Helper()
	eventually(t, address+" answers", func() bool { return answers(asker(t, address), "hello") })
}

// freeForPackets says whether a port of UDP can be had.
func freeForPackets(address string) bool {
	c, err := net.ListenPacket("udp", address)
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

// What takes datagrams in the guest does so at the host.
func TestHostNetworkTakesDatagrams(t *testing.T) {
	address := hostAddress(t)
	before := census(t)
	c := start(t, guestFlags(t, "--net-host"), guest("echo", "0.0.0.0:7001", "127.0.0.1:7002", "[::1]:7003", "[::]:7004")...)
	background := func(args ...string) {
		_ = c.exec(t, "sh", "-c", strings.Join(guest(args...), " ")+" >/out 2>&1 &")
	}

	t.Run("at the addresses that the guest has it at", func(t *testing.T) {
		for _, at := range []string{"127.0.0.1:7001", address + ":7001", "127.0.0.1:7002", "[::1]:7003", "[::1]:7004", "127.0.0.1:7004", address + ":7004"} {
			echoes(t, at)
		}
		for _, at := range []string{address + ":7002", address + ":7003", "127.0.0.1:7003"} {
			if !freeForPackets(at) {
				t.Errorf("%s is taken", at)
			}
		}
	})
	t.Run("of any size, and each gets its own", func(t *testing.T) {
		var all sync.WaitGroup
		for _, name := range []string{"a", "b", "c"} {
			all.Go(func() {
				conn := asker(t, "127.0.0.1:7001")
				for i := range 20 {
					for _, size := range []int{1, 1400, 8192, 60000} {
						text := fmt.Sprintf("%s%d%s", name, i, strings.Repeat(name, size))
						if !answers(conn, text) {
							t.Errorf("%s: no answer to %d bytes, round %d", name, size, i)
							return
						}
					}
				}
			})
		}
		all.Wait()
	})
	t.Run("not for a client", func(t *testing.T) {
		background("echo", "0.0.0.0:0")
		var port string
		eventually(t, "it has a port", func() bool {
			_, port, _ = net.SplitHostPort(strings.TrimSpace(c.exec(t, "cat", "/out")))
			return port != ""
		})
		background("echo", "0.0.0.0:7005")
		echoes(t, "127.0.0.1:7005")
		if !freeForPackets(":" + port) {
			t.Errorf("the host has port %s", port)
		}
	})
	t.Run("not beyond the socket's end", func(t *testing.T) {
		_ = c.exec(t, "sh", "-c", "kill $(ps -o pid,args | awk '/echo 0.0.0.0:7005/ && !/awk/ {print $1}')")
		eventually(t, "the port is free", func() bool { return freeForPackets(":7005") })
	})
	t.Run("also when the server connects the socket with the first who sends", func(t *testing.T) {
		background("connect", "0.0.0.0:7006")
		conn := asker(t, "127.0.0.1:7006")
		eventually(t, "it answers", func() bool { return answers(conn, "hello") })
		background("echo", "0.0.0.0:7007")
		echoes(t, "127.0.0.1:7007") // the host has looked again
		if !answers(conn, "hello") {
			t.Error("and no more")
		}
	})
	t.Run("free when its container is gone", func(t *testing.T) {
		c.end(t)
		before.Expect(t)
		for _, port := range []string{"7001", "7002", "7003", "7004", "7006"} {
			if !freeForPackets(":" + port) {
				t.Errorf("port %s is taken", port)
			}
		}
	})
}

// However often a guest listens where the host can't, the log says it once.
func TestHostNetworkTakenPortsAreSaidOnce(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:7010")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.1:7011")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	said := func(what string) int {
		log, err := shared.LogTail(1 << 20) // all of it
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(log, "what listens at "+what+" in the guest")
	}
	c := start(t, guestFlags(t, "--net-host"), guest("echo", "0.0.0.0:7012")...)
	for network, what := range map[string]string{"tcp": "127.0.0.1:7010", "udp": "127.0.0.1:7011 (UDP)"} {
		at, _, _ := strings.Cut(what, " ")
		before := said(what)
		_ = c.exec(t, guest("again", network, at, "10")...)
		eventually(t, "the log says it", func() bool { return said(what) > before })
		if n := said(what) - before; n != 1 {
			t.Errorf("%s is in the log %d times", what, n)
		}
	}
	echoes(t, "127.0.0.1:7012")
}
