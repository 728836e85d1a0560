package e2e

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// hostAddress gives the host an address that is not its loopback's.
func hostAddress(t *testing.T) string {
	t.Helper()
	const address = "10.99.0.1"
	output(t, "ip", "addr", "add", address+"/32", "dev", "lo")
	t.Cleanup(func() { _ = exec.Command("ip", "addr", "del", address+"/32", "dev", "lo").Run() })
	return address
}

// hostFile puts a file in the place of the host's, for the duration of the test.
func hostFile(t *testing.T, path, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(file, path, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
}

// nobodyAt says that nobody listens there.
func nobodyAt(address string) bool {
	c, err := net.Dial("tcp", address)
	if err == nil {
		_ = c.Close()
	}
	return err != nil
}

// end kills the container and waits until it is gone.
func (b *background) end(t *testing.T) {
	t.Helper()
	ctr(t, "task", "kill", "-s", "SIGKILL", b.id)
	b.wait(t)
}

// checksum is of all that comes.
func checksum(r io.Reader) string {
	h := sha256.New()
	_, _ = io.Copy(h, r)
	return fmt.Sprintf("%x", h.Sum(nil))
}

// A container with the host's network has one in user mode, which leads where the host's does.
func TestHostNetwork(t *testing.T) {
	before := census(t)
	address := hostAddress(t)
	hostFile(t, "/etc/resolv.conf", "nameserver 127.0.0.53\n")
	names, err := net.ListenPacket("udp", "127.0.0.53:53")
	if err != nil {
		t.Fatal(err)
	}
	defer names.Close()
	go answerNames(names, [4]byte{192, 0, 2, 99})
	c := start(t, guestFlags(t, "--net-host"), "sleep", "1000")

	t.Run("TCP to the host's addresses", func(t *testing.T) {
		for listen, dial := range map[string]string{address: address, "127.0.0.1": "192.0.0.3"} {
			url, sum := hostServer(t, listen)
			url = strings.Replace(url, listen, dial, 1)
			if got := c.exec(t, "sh", "-c", "wget -q -O- "+url+" | sha256sum"); !strings.HasPrefix(got, sum) {
				t.Errorf("%s: the sum is %s, want %s", url, got, sum)
			}
		}
	})
	t.Run("TCP from the guest", func(t *testing.T) {
		l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		sum := make(chan string, 1)
		go func() {
			conn, err := l.Accept()
			if err != nil {
				close(sum)
				return
			}
			sum <- checksum(conn)
			_ = conn.Close()
		}()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		want := c.exec(t, "sh", "-c", fmt.Sprintf("dd if=/dev/urandom of=/big bs=1M count=8 2>/dev/null; nc %s %s < /big; sha256sum /big | head -c 64", address, port))
		if got := <-sum; got != want {
			t.Errorf("the sum is %s, want %s", got, want)
		}
	})
	t.Run("a port where nobody listens", func(t *testing.T) {
		if got := c.exec(t, "sh", "-c", "nc -w 20 "+address+" 9 2>&1 || true"); !strings.Contains(got, "refused") {
			t.Errorf("%q", got)
		}
	})
	t.Run("UDP", func(t *testing.T) { checkUDP(t, c, address) })
	t.Run("the host's own name server", func(t *testing.T) {
		if got := c.exec(t, "nslookup", "-type=a", "some.name.example"); !strings.Contains(got, "192.0.2.99") {
			t.Errorf("%s", got)
		}
	})
	c.end(t)
	before.Expect(t)
}

// What listens in the guest listens at the host.
func TestHostNetworkListensAtTheHost(t *testing.T) {
	address := hostAddress(t)
	c := start(t, []string{"--net-host"}, webServer()...)
	checkBig(t, "http://127.0.0.1")
	checkBig(t, "http://"+address)

	t.Run("at loopback alone", func(t *testing.T) {
		for _, at := range []string{"127.0.0.1:81", "[::1]:82"} {
			_ = c.exec(t, "httpd", "-p", at, "-h", "/www")
			checkBig(t, "http://"+at)
			_, port, _ := net.SplitHostPort(at)
			if !nobodyAt(net.JoinHostPort(address, port)) {
				t.Errorf("%s answers at %s", at, address)
			}
		}
	})
	t.Run("not beyond its listener's end", func(t *testing.T) {
		_ = c.exec(t, "httpd", "-p", "83", "-h", "/www")
		checkBig(t, "http://127.0.0.1:83")
		_ = c.exec(t, "sh", "-c", "kill $(ps -o pid,args | awk '/httpd -p 83/ && !/awk/ {print $1}')")
		eventually(t, "the port is free", func() bool { return nobodyAt("127.0.0.1:83") })
	})
	t.Run("unless the host's port is taken", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:84")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_ = c.exec(t, "httpd", "-p", "127.0.0.1:84", "-h", "/www")
		eventually(t, "the log says so", func() bool {
			log, _ := shared.LogTail(200)
			return strings.Contains(log, "127.0.0.1:84 in the guest")
		})
		_ = c.exec(t, "httpd", "-p", "85", "-h", "/www")
		checkBig(t, "http://127.0.0.1:85")
	})
	t.Run("free when its container is gone", func(t *testing.T) {
		c.end(t)
		for _, port := range []string{"80", "81", "85"} {
			l, err := net.Listen("tcp", ":"+port)
			if err != nil {
				t.Error(err)
				continue
			}
			_ = l.Close()
		}
		start(t, []string{"--net-host"}, webServer()...)
		checkBig(t, "http://127.0.0.1")
	})
}

// A server of IPv6 alone is reached like any other.
func TestHostNetworkListensForIPv6Alone(t *testing.T) {
	start(t, guestFlags(t, "--net-host"), guest("greet", "tcp6", "[::]:86")...)
	eventually(t, "it greets", func() bool {
		c, err := net.Dial("tcp", "[::1]:86")
		if err != nil {
			return false
		}
		defer c.Close()
		said, _ := io.ReadAll(c)
		return string(said) == greeting
	})
}

// Who loses its network goes on without.
func TestHostNetworkDies(t *testing.T) {
	before := census(t)
	c := start(t, []string{"--net-host"}, "sleep", "1000")
	for _, pid := range pidsOf(t, c.id, "husk-net") {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	if got := c.exec(t, "echo", "here"); got != "here\n" {
		t.Errorf("%q", got)
	}
	c.end(t)
	before.Expect(t)
}

func TestHostNetworkNone(t *testing.T) {
	res := ctrRun(t, append(withConfigFlags(t, configuration("host_network = \"none\"\n")), "--net-host"), "sh", "-c", loopbackOnly)
	if res.Stdout != "1\n1\n1\n" {
		t.Errorf("%+v", res)
	}
}

// husk-net ends with whoever is killed, and the host's ports are free.
func TestHostNetworkLeavesNothing(t *testing.T) {
	for _, victim := range victims() {
		t.Run(victim, func(t *testing.T) {
			before := census(t)
			b := start(t, []string{"--net-host"}, webServer()...)
			checkBig(t, "http://127.0.0.1")
			for _, pid := range pidsOf(t, b.id, victim) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			b.wait(t)
			_ = shared.Ctr(testContext(t), "task", "rm", "-f", b.id).Run()
			before.Expect(t)
			if !nobodyAt("127.0.0.1:80") {
				t.Error("the host still listens")
			}
		})
	}
}

// A host with IPv6 is one for the guest as well.
func TestHostNetworkOfIPv6(t *testing.T) {
	const address = "fd99::1"
	output(t, "ip", "addr", "add", address+"/128", "dev", "lo", "nodad")
	t.Cleanup(func() { _ = exec.Command("ip", "addr", "del", address+"/128", "dev", "lo").Run() })
	before := census(t)
	c := start(t, guestFlags(t, "--net-host"), "sleep", "1000")

	t.Run("TCP to the host's addresses", func(t *testing.T) {
		for listen, dial := range map[string]string{address: address, "::1": "fd68:7573:6b00::3"} {
			url, sum := hostServer(t, listen)
			url = strings.Replace(url, "["+listen+"]", "["+dial+"]", 1)
			if got := c.exec(t, "sh", "-c", "wget -q -O- "+url+" | sha256sum"); !strings.HasPrefix(got, sum) {
				t.Errorf("%s: the sum is %s, want %s", url, got, sum)
			}
		}
	})
	t.Run("a port where nobody listens", func(t *testing.T) {
		if got := c.exec(t, "sh", "-c", "nc -w 20 "+address+" 9 2>&1 || true"); !strings.Contains(got, "refused") {
			t.Errorf("%q", got)
		}
	})
	t.Run("UDP", func(t *testing.T) { checkUDP(t, c, address) })
	t.Run("the gateway answers an echo, and nobody else", func(t *testing.T) {
		got := c.exec(t, "sh", "-c", "for a in fd68:7573:6b00::1 192.0.0.1 "+address+"; do ping -c 1 -W 5 $a >/dev/null && echo $a; done; true")
		if got != "fd68:7573:6b00::1\n192.0.0.1\n" {
			t.Errorf("%q", got)
		}
	})
	t.Run("what listens at the guest's address", func(t *testing.T) {
		_ = c.exec(t, "sh", "-c", strings.Join(guest("echo", "[fd68:7573:6b00::2]:7020"), " ")+" >/out 2>&1 &")
		echoes(t, "["+address+"]:7020")
	})
	c.end(t)
	before.Expect(t)
}

func TestHostNetworkWithoutIPv6(t *testing.T) {
	res := ctrRun(t, []string{"--net-host"}, "sh", "-c", "ip -6 addr show dev eth0; ip -6 route show dev eth0")
	if res.Stdout != "" || res.Status != 0 {
		t.Errorf("%+v", res)
	}
}
