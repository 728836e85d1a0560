package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// webServer is a container's command: it serves some random megabytes, and their checksum.
func webServer() []string {
	return []string{"sh", "-c", fmt.Sprintf("mkdir /www && cd /www && dd if=/dev/urandom of=big bs=1M count=%d 2>/dev/null && "+
		"sha256sum big > sum && exec httpd -f -p 80 -h /www", *megabytes)}
}

// get is the body of a page that is there at last.
func get(t *testing.T, url string) []byte {
	t.Helper()
	var body []byte
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	eventually(t, url+" is there", func() bool {
		r, err := client.Get(url)
		if err != nil {
			return false
		}
		defer r.Body.Close()
		body, err = io.ReadAll(r.Body)
		return err == nil && r.StatusCode == http.StatusOK
	})
	return body
}

// checkBig fetches webServer's big file and compares it with its sum.
func checkBig(t *testing.T, base string) {
	t.Helper()
	want, _, _ := strings.Cut(string(get(t, base+"/sum")), " ")
	if got := fmt.Sprintf("%x", sha256.Sum256(get(t, base+"/big"))); got != want {
		t.Errorf("the sum is %s, the server says %s", got, want)
	}
}

// hostServer serves some random megabytes from the host, and returns where and what sum.
func hostServer(t *testing.T, address string) (url, sum string) {
	t.Helper()
	data := make([]byte, *megabytes<<20)
	_, _ = rand.Read(data)
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return "http://" + l.Addr().String() + "/", fmt.Sprintf("%x", sha256.Sum256(data))
}

// exec runs a command in a running container.
func (b *background) exec(t *testing.T, args ...string) string {
	t.Helper()
	return ctr(t, append([]string{"task", "exec", "--exec-id", newID(t), b.id}, args...)...).Stdout
}

// checkUDP has the container send datagrams to an address of the host, where they are answered: small ones, and such as
// go in fragments.
func checkUDP(t *testing.T, b *background, address string) {
	t.Helper()
	echoes, err := net.ListenPacket("udp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer echoes.Close()
	go func() { _ = echo(echoes) }()
	if got := b.exec(t, guest("send", echoes.LocalAddr().String(), "5", "5000")...); got != "5\n5000\n" {
		t.Errorf("%q", got)
	}
}

func TestNetworkOfCNI(t *testing.T) {
	network := bridge(t, 1500)
	a, b := newNetns(t), newNetns(t)
	portmap := map[string]any{"type": "portmap", "capabilities": map[string]any{"portMappings": true},
		"runtimeConfig": map[string]any{"portMappings": []any{map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}}}
	firewall := map[string]any{"type": "firewall", "backend": "iptables"}
	addrA := a.add("eth0", network, portmap, firewall)
	addrB := b.add("eth0", network, firewall)
	before := a.traces()
	server := start(t, a.flags(), webServer()...)
	client := start(t, guestFlags(t, b.flags()...), "sleep", "1000")
	ipA, gateway := addrA.address(t, false)
	ip6A, gateway6 := addrA.address(t, true)
	ipB, _ := addrB.address(t, false)

	t.Run("the host to a container", func(t *testing.T) { checkBig(t, "http://"+ipA) })
	t.Run("the host to a container, IPv6", func(t *testing.T) { checkBig(t, "http://["+ip6A+"]") })
	for _, address := range []string{gateway, gateway6} {
		t.Run("a container to the host at "+address, func(t *testing.T) {
			url, sum := hostServer(t, address)
			if got := client.exec(t, "sh", "-c", "wget -q -O- "+url+" | sha256sum"); !strings.HasPrefix(got, sum) {
				t.Errorf("the sum is %s, want %s", got, sum)
			}
		})
	}
	t.Run("metrics count what has passed", func(t *testing.T) {
		begin := metricsOf(t, client.id).network
		client.exec(t, "sh", "-c", fmt.Sprintf("wget -q -O- http://%s/big >/dev/null", ipA))
		end := metricsOf(t, client.id).network
		if len(begin) != 1 || len(end) != 1 || end[0].Name != "eth0" {
			t.Fatalf("%+v, %+v", begin, end)
		}
		size := uint64(*megabytes) << 20
		received, sent := end[0].RxBytes-begin[0].RxBytes, end[0].TxBytes-begin[0].TxBytes
		// With the headers of packets that may be as small as an Ethernet frame's.
		if received < size || received > size*106/100 || sent == 0 || sent > size/10 || end[0].RxPackets <= begin[0].RxPackets || end[0].TxPackets <= begin[0].TxPackets {
			t.Errorf("for %d bytes fetched, %d were received and %d sent: %+v", size, received, sent, end)
		}
		if got := metricsOf(t, server.id).network; len(got) != 1 || got[0].TxBytes < received {
			t.Errorf("the server: %+v", got)
		}
	})
	t.Run("container to container", func(t *testing.T) {
		got := client.exec(t, "sh", "-c", fmt.Sprintf("wget -q -O- http://%s/big | sha256sum", ipA))
		sum, _, _ := strings.Cut(string(get(t, "http://"+ipA+"/sum")), " ")
		if !strings.HasPrefix(got, sum) {
			t.Errorf("the sum is %s, want %s", got, sum)
		}
	})
	t.Run("UDP, large datagrams too", func(t *testing.T) { checkUDP(t, client, gateway) })
	t.Run("a published port, free again when its container is gone", func(t *testing.T) {
		checkBig(t, fmt.Sprintf("http://%s:8080", gateway))
		if got := client.exec(t, "sh", "-c", fmt.Sprintf("wget -q -O- http://%s:8080/big | wc -c", gateway)); got != fmt.Sprintln(*megabytes<<20) {
			t.Errorf("%q", got)
		}
		ctr(t, "task", "kill", "-s", "SIGKILL", server.id)
		server.wait(t)
		a.unchanged(before)
		a.del()
		second := newNetns(t)
		second.add("eth0", network, portmap, firewall)
		start(t, second.flags(), webServer()...)
		checkBig(t, fmt.Sprintf("http://%s:8080", gateway))
	})
	t.Run("the guest answers at its address alone", func(t *testing.T) {
		out := client.exec(t, "sh", "-c", "ip -o -4 addr show dev eth0; ip -o link")
		if !strings.Contains(out, ipB+"/24") || strings.Count(out, "mtu") != 2 {
			t.Errorf("%s", out)
		}
	})
}

// Every interface is the guest's, as the orchestrator has made it.
func TestInterfacesAreTakenOver(t *testing.T) {
	n := newNetns(t)
	small, large := bridge(t, 1450), bridge(t, 9000)
	first := n.add("eth0", small)
	second := n.add("net1", large)
	// The third is a macvlan of the second's bridge, and gets what plugins set less often.
	output(t, "ip", "link", "add", "link", large["bridge"].(string), "name", "huskmv", "netns", n.name, "type", "macvlan", "mode", "bridge")
	n.run("ip", "link", "set", "huskmv", "name", "data", "address", "02:00:00:00:00:42", "up")
	n.run("ip", "addr", "add", "192.0.2.7/32", "dev", "data")
	n.run("ip", "route", "add", "198.51.100.0/24", "via", "169.254.1.1", "dev", "data", "onlink", "src", "192.0.2.7", "metric", "77")
	n.run("ip", "route", "add", "203.0.113.0/24", "dev", "data", "scope", "link", "mtu", "1300")
	n.run("ip", "route", "add", "blackhole", "100.64.0.0/10")
	n.run("ip", "neigh", "add", "169.254.1.1", "lladdr", "02:00:00:00:00:43", "dev", "data", "nud", "permanent")
	n.run("ip", "-6", "addr", "add", "2001:db8::7/128", "dev", "data", "nodad")
	n.run("ip", "-6", "route", "add", "2001:db8:1::/64", "via", "fe80::1", "dev", "data")
	before := n.traces()
	c := start(t, n.flags("--privileged"), "sleep", "1000")

	for _, i := range []string{"eth0", "net1", "data"} {
		for _, what := range []string{"address", "mtu"} {
			file := "/sys/class/net/" + i + "/" + what
			if got, want := c.exec(t, "cat", file), n.run("cat", file); got != want {
				t.Errorf("%s is %q in the guest, %q in the namespace", file, got, want)
			}
		}
	}
	// busybox prints less than iproute2, so each line is asked for.
	for _, want := range []struct{ command, line string }{
		{"ip -4 addr show dev data", "inet 192.0.2.7/32 scope global data"},
		{"ip -6 addr show dev data", "inet6 2001:db8::7/128 scope global"},
		{"ip route", "198.51.100.0/24 via 169.254.1.1 dev data  src 192.0.2.7  metric 77 onlink"},
		{"ip route", "203.0.113.0/24 dev data scope link"},
		{"ip route", "blackhole 100.64.0.0/10"},
		{"ip -6 route", "2001:db8:1::/64 via fe80::1 dev data"},
		{"ip neigh", "169.254.1.1 dev data lladdr 02:00:00:00:00:43"},
		{"ip -6 addr show dev eth0 | grep -c tentative", "0"},
	} {
		if got := c.exec(t, "sh", "-c", want.command+" || true"); !strings.Contains(strings.Join(strings.Fields(got), " "), strings.Join(strings.Fields(want.line), " ")) {
			t.Errorf("%s: %s\nwant %s", want.command, got, want.line)
		}
	}
	for _, r := range []cniResult{first, second} {
		for _, v6 := range []bool{false, true} {
			_, gateway := r.address(t, v6)
			url, sum := hostServer(t, gateway)
			if got := c.exec(t, "sh", "-c", "wget -q -O- "+url+" | sha256sum"); !strings.HasPrefix(got, sum) {
				t.Errorf("%s: the sum is %s, want %s", url, got, sum)
			}
		}
	}
	_, gateway := second.address(t, false)
	if out := c.exec(t, "ping", "-c", "1", "-s", "8972", gateway); !strings.Contains(out, "1 packets received") {
		t.Errorf("a packet of 9000 bytes: %s", out)
	}
	ctr(t, "task", "kill", "-s", "SIGKILL", c.id)
	c.wait(t)
	n.unchanged(before)
}

// An ipvlan has the hardware address of the interface below; in mode l3 nobody asks for addresses on it.
func TestInterfacesOfIPVLAN(t *testing.T) {
	for _, mode := range []string{"l2", "l3"} {
		t.Run(mode, func(t *testing.T) {
			// The other end of the interface below is a host in a namespace of its own.
			n, other := newNetns(t), newNetns(t)
			output(t, "ip", "link", "add", "husk-ipv", "type", "veth", "peer", "name", "eth0", "netns", other.name)
			t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "husk-ipv").Run() })
			output(t, "ip", "link", "set", "husk-ipv", "up")
			if out, err := exec.Command("ip", "link", "add", "link", "husk-ipv", "name", "husk-ip0", "type", "ipvlan", "mode", mode).CombinedOutput(); err != nil {
				t.Skipf("this kernel has no ipvlan: %s", out)
			}
			output(t, "ip", "link", "set", "husk-ip0", "netns", n.name)
			n.run("ip", "link", "set", "husk-ip0", "name", "eth0", "up")
			n.run("ip", "addr", "add", "10.87.0.2/24", "dev", "eth0")
			other.run("ip", "link", "set", "eth0", "up")
			other.run("ip", "addr", "add", "10.87.0.1/24", "dev", "eth0")
			if mode == "l3" {
				// The interface below routes for the ipvlan, and answers for it.
				output(t, "ip", "route", "add", "10.87.0.0/24", "dev", "husk-ipv")
				other.run("ip", "neigh", "add", "10.87.0.2", "dev", "eth0", "lladdr", strings.TrimSpace(n.run("cat", "/sys/class/net/eth0/address")))
			}
			res := ctrRun(t, n.flags(), "sh", "-c", "ping -c 2 10.87.0.1")
			if res.Status != 0 || !strings.Contains(res.Stdout, "2 packets received") {
				t.Errorf("%+v", res)
			}
		})
	}
}

// NetworkPolicy is nftables' on the host's side of the interface, which the frames still pass.
func TestRulesOnTheHostsSideHold(t *testing.T) {
	n, network := newNetns(t), bridge(t, 1500)
	_, gateway := n.add("eth0", network).address(t, false)
	allowed, sum := hostServer(t, gateway)
	denied, _ := hostServer(t, gateway)
	port := strings.TrimSuffix(denied[strings.LastIndex(denied, ":")+1:], "/")
	table := "husk_" + network["bridge"].(string)
	rules := fmt.Sprintf("table inet %s { chain in { type filter hook input priority 0; iifname %q tcp dport %s reject with tcp reset; }; }", table, network["bridge"], port)
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("nft", "delete", "table", "inet", table).Run() })
	res := ctrRun(t, n.flags(), "sh", "-c", fmt.Sprintf("wget -q -O- %s | sha256sum; wget -q -O- %s 2>&1 || echo denied", allowed, denied))
	if !strings.HasPrefix(res.Stdout, sum) || !strings.HasSuffix(res.Stdout, "denied\n") {
		t.Errorf("%+v", res)
	}
}

func TestNameServerOfResolvConf(t *testing.T) {
	n := newNetns(t)
	_, gateway := n.add("eth0", bridge(t, 1500)).address(t, false)
	c, err := net.ListenPacket("udp", net.JoinHostPort(gateway, "53"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go answerNames(c, [4]byte{192, 0, 2, 99})
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver "+gateway+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	res := ctrRun(t, n.flags("--mount", "type=bind,src="+conf+",dst=/etc/resolv.conf,options=rbind:ro"),
		"nslookup", "-type=a", "some.name.example")
	if !strings.Contains(res.Stdout, "192.0.2.99") {
		t.Errorf("%+v", res)
	}
}

// answerNames answers every question for an A record (RFC 1035).
func answerNames(c net.PacketConn, address [4]byte) {
	buf := make([]byte, 512)
	for {
		size, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = c.WriteTo(answerName(buf[:size], address), from)
	}
}

// answerName is the answer to a question for an A record.
func answerName(question []byte, address [4]byte) []byte {
	if len(question) < 12 {
		return nil
	}
	const header = 12
	name := bytes.IndexByte(question[header:], 0)
	end := header + name + 5 // with type and class; whatever follows is options
	if name < 0 || end > len(question) {
		return nil
	}
	answer := bytes.Clone(question[:end])
	copy(answer[2:header], []byte{0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0}) // a response, without error, and how many of what
	answer = append(answer, 0xc0, header, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4)
	return append(answer, address[:]...)
}

func TestWithoutANetworkThereIsLoopbackAlone(t *testing.T) {
	res := ctrRun(t, nil, "sh", "-c", loopbackOnly)
	if res.Stdout != "1\n1\n1\n" {
		t.Errorf("%+v", res)
	}
}

// loopbackOnly counts interfaces, and answers of the two families.
const loopbackOnly = "ip -o link | wc -l; ping -c 1 127.0.0.1 | grep -c '1 packets received'; ping6 -c 1 ::1 | grep -c '1 packets received'"

func TestANamespaceThatIsNotThereFailsTheStart(t *testing.T) {
	before := census(t)
	res := ctrRun(t, []string{"--with-ns", "network:/run/netns/no-such"}, "true")
	if res.Status == 0 || !strings.Contains(res.Stderr, "/run/netns/no-such") {
		t.Errorf("%+v", res)
	}
	before.Expect(t)
}

func TestKilledVMLeavesNothingInTheNetworkNamespace(t *testing.T) {
	n := newNetns(t)
	ip, _ := n.add("eth0", bridge(t, 1500)).address(t, false)
	before := n.traces()
	for _, victim := range victims() {
		t.Run(victim, func(t *testing.T) {
			b := start(t, n.flags(), webServer()...)
			checkBig(t, "http://"+ip)
			if n.traces() == before {
				t.Error("a running VM is not to be seen in its namespace")
			}
			for _, pid := range pidsOf(t, b.id, victim) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			b.wait(t)
			_ = shared.Ctr(testContext(t), "task", "rm", "-f", b.id).Run()
			n.unchanged(before)
		})
	}
}
