package cri

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The channels of a forwarded port: data, and what went wrong. Each begins with the port, in two bytes.
const (
	channelData = iota
	channelError
)

// forward opens a connection to a port of the pod, as kubectl port-forward does for each.
func (p *pod) forward(port int32) *stream {
	p.t.Helper()
	r, err := runtime.PortForward(testContext(p.t), &cri.PortForwardRequest{PodSandboxId: p.id, Port: []int32{port}})
	if err != nil {
		p.t.Fatal(err)
	}
	s := open(p.t, r.Url)
	want := string(binary.LittleEndian.AppendUint16(nil, uint16(port)))
	s.until(channelData, want)
	s.until(channelError, want)
	return s
}

// fetch gets a page of a web server in the pod; an error is the connection's.
func (p *pod) fetch(port int32, path string) (body string, err error) {
	p.t.Helper()
	s := p.forward(port)
	s.send(channelData, "GET "+path+" HTTP/1.0\r\n\r\n")
	s.end()
	head, body, found := strings.Cut(s.got[channelData].String()[2:], "\r\n\r\n")
	if !found || !strings.Contains(head, " 200 ") {
		return "", fmt.Errorf("%q: %s", head, s.got[channelError].String())
	}
	return body, nil
}

// site serves a page that names it, and some megabytes with their checksum.
func site(name, address string) *cri.ContainerConfig {
	return shell(name, "mkdir /www && cd /www && echo "+name+" > name && dd if=/dev/urandom of=big bs=1M count=2 2>/dev/null && "+
		"sha256sum big | head -c 64 > sum && exec httpd -f -p "+address+" -h /www")
}

// What listens in the pod is found at its port: at every address, at localhost alone, and at IPv6's alone.
func TestPortForward(t *testing.T) {
	before := census(t)
	p := newPod(t)
	sites := map[int32]string{8080: "8080", 8081: "127.0.0.1:8081", 8082: "[::1]:8082"}
	for port, address := range sites {
		p.start(site(fmt.Sprint("site", port), address))
		eventually(t, address+" answers", func() bool { _, err := p.fetch(port, "/name"); return err == nil })
	}
	for port := range sites {
		t.Run(sites[port], func(t *testing.T) {
			if got, err := p.fetch(port, "/name"); err != nil || got != fmt.Sprintf("site%d\n", port) {
				t.Errorf("%q, %v", got, err)
			}
			sum, err := p.fetch(port, "/sum")
			if err != nil {
				t.Fatal(err)
			}
			big, err := p.fetch(port, "/big")
			if got := fmt.Sprintf("%x", sha256.Sum256([]byte(big))); err != nil || got != sum {
				t.Errorf("%d bytes with the sum %s, want %s: %v", len(big), got, sum, err)
			}
		})
	}
	t.Run("several at a time", func(t *testing.T) {
		var all sync.WaitGroup
		for range 8 {
			for port := range sites {
				all.Go(func() {
					if got, err := p.fetch(port, "/name"); err != nil || got != fmt.Sprintf("site%d\n", port) {
						t.Errorf("%q, %v", got, err)
					}
				})
			}
		}
		all.Wait()
	})
	t.Run("what is sent", func(t *testing.T) {
		c := p.start(shell("sink", "nc -l -p 8083 | sha256sum | head -c 64 > /sum; sleep 1000"))
		eventually(t, "nc listens", func() bool { return strings.Contains(c.prints("netstat -ltn"), ":8083 ") })
		data := strings.Repeat("0123456789abcdef", 1<<16)
		s := p.forward(8083)
		for i := 0; i < len(data); i += 1 << 15 {
			s.send(channelData, data[i:i+1<<15])
		}
		// Who closes is heard behind its data.
		_ = s.conn.Close()
		want := fmt.Sprintf("%x", sha256.Sum256([]byte(data)))
		eventually(t, "all of it arrives", func() bool { return c.prints("cat /sum") == want })
	})
	t.Run("nobody listens", func(t *testing.T) {
		if got, err := p.fetch(9, "/"); err == nil {
			t.Errorf("%q", got)
		}
		if got, err := p.fetch(8080, "/name"); err != nil || got != "site8080\n" {
			t.Errorf("afterwards: %q, %v", got, err)
		}
	})
	t.Run("the pod goes", func(t *testing.T) {
		// nc says nothing, and waits.
		c := p.start(shell("silent", "nc -l -p 8084"))
		eventually(t, "nc listens", func() bool { return strings.Contains(c.prints("netstat -ltn"), ":8084 ") })
		s := p.forward(8084)
		s.send(channelData, "hello")
		p.remove()
		s.end()
		before.Expect(t)
	})
}

// prints is what a command in the container prints.
func (c *container) prints(command string) string {
	c.t.Helper()
	out, _, _ := c.exec("sh", "-c", command)
	return out
}
