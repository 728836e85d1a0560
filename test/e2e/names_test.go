package e2e

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// inside runs f on a thread that is in the network namespace at path, and ends with it.
func inside(t *testing.T, path string, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		ns, err := os.Open(path)
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// nameServer answers in the namespace at path, at an address and a port, until the test ends: by UDP with 192.0.2.1, by
// TCP with 192.0.2.2. It returns the port.
func nameServer(t *testing.T, path, address string) (port string) {
	t.Helper()
	var packets net.PacketConn
	var conns net.Listener
	inside(t, path, func() (err error) {
		if conns, err = net.Listen("tcp", address); err != nil {
			return err
		}
		packets, err = net.ListenPacket("udp", conns.Addr().String())
		return err
	})
	t.Cleanup(func() { _, _ = conns.Close(), packets.Close() })
	go answerNames(packets, [4]byte{192, 0, 2, 1})
	go answerConns(conns, [4]byte{192, 0, 2, 2})
	_, port, _ = net.SplitHostPort(conns.Addr().String())
	return port
}

// answerConns is answerNames for connections, of which each has one question.
func answerConns(l net.Listener, address [4]byte) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		var size [2]byte
		_, _ = io.ReadFull(conn, size[:])
		question := make([]byte, binary.BigEndian.Uint16(size[:]))
		_, _ = io.ReadFull(conn, question)
		answer := answerName(question, address)
		_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
		_ = conn.Close()
	}
}

// resolvConf are the flags of ctr run for a container with a text for its resolv.conf.
func resolvConf(t *testing.T, text string) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return []string{"--mount", "type=bind,src=" + file + ",dst=/etc/resolv.conf,options=rbind:rw"}
}

// A name server at the loopback of the network namespace, which is on the host, is the guest's as well: such as docker's,
// at 127.0.0.11, where rules lead to another port.
func TestNameServerAtTheNamespacesLoopback(t *testing.T) {
	ask := fmt.Sprintf("nslookup -type=a some.name.example; for i in 1 2 3; do %s ask tcp some.name.example.; done; %[1]s ask udp some.name.example.",
		strings.Join(guest(), " "))
	check := func(t *testing.T, c *background) {
		t.Helper()
		got := c.exec(t, "sh", "-c", ask)
		if strings.Count(got, "192.0.2.1\n") != 1 || strings.Count(got, "[192.0.2.2]") != 3 || strings.Count(got, "[192.0.2.1]") != 1 {
			t.Errorf("%s", got)
		}
	}
	for name, serve := range map[string]func(t *testing.T, n *netns){
		"itself": func(t *testing.T, n *netns) { nameServer(t, n.path(), "127.0.0.11:53") },
		"by a rule": func(t *testing.T, n *netns) {
			port := nameServer(t, n.path(), "127.0.0.11:0")
			for _, protocol := range []string{"udp", "tcp"} {
				rule := exec.Command("ip", "netns", "exec", n.name, "iptables", "-w", "-t", "nat", "-A", "OUTPUT", "-d", "127.0.0.11",
					"-p", protocol, "--dport", "53", "-j", "DNAT", "--to-destination", "127.0.0.11:"+port)
				if text, err := rule.CombinedOutput(); err != nil {
					t.Skipf("no rules here: %s", text)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetns(t)
			n.add("eth0", bridge(t, 1500))
			serve(t, n)
			before, traces := census(t), n.traces()
			flags := guestFlags(t, append(n.flags(), resolvConf(t, "search example\nnameserver 127.0.0.11\noptions ndots:0\n")...)...)
			c := start(t, flags, "sleep", "1000")
			check(t, c)
			if got := c.exec(t, "sh", "-c", "nslookup -type=a x.example 127.0.0.12 2>&1 || true"); strings.Contains(got, "192.0.2") {
				t.Errorf("another address answers: %s", got)
			}
			c.end(t)
			before.Expect(t)
			n.unchanged(traces)
		})
	}
	t.Run("at localhost it is the guest's own", func(t *testing.T) {
		n := newNetns(t)
		nameServer(t, n.path(), "127.0.0.1:53")
		res := ctrRun(t, append(n.flags(), resolvConf(t, "nameserver 127.0.0.1\n")...), "sh", "-c", "netstat -lnu; nslookup -type=a x.example 2>&1")
		if strings.Contains(res.Stdout, ":53 ") || strings.Contains(res.Stdout, "192.0.2") {
			t.Errorf("%+v", res)
		}
	})
}
