package cri

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A pod with the host's network listens at the host, and reaches it.
func TestHostNetworkPod(t *testing.T) {
	before := census(t)
	p := newPod(t, func(c *cri.PodSandboxConfig) {
		c.Hostname = ""
		c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
	})
	config := func(c *cri.ContainerConfig) *cri.ContainerConfig {
		c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
		return c
	}
	p.start(config(site("web", "8090")))
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	eventually(t, "the host answers for the pod", func() bool {
		r, err := client.Get("http://127.0.0.1:8090/name")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		body, _ := io.ReadAll(r.Body)
		return string(body) == "web\n"
	})
	// Kubernetes' port-forward and probes go to the host's localhost.
	if got, err := p.fetch(8090, "/name"); err != nil || got != "web\n" {
		t.Errorf("%q, %v", got, err)
	}
	// The pod's containers share the guest's network, and find the host at its alias.
	c := p.start(config(shell("other", idle)))
	for _, at := range []string{"127.0.0.1", "192.0.0.3"} {
		if got := c.prints("wget -q -O- http://" + at + ":8090/name"); strings.TrimSpace(got) != "web" {
			t.Errorf("%s: %q", at, got)
		}
	}
	p.remove()
	if _, err := client.Get("http://127.0.0.1:8090/name"); err == nil {
		t.Error("the port is in use after the pod")
	}
	before.Expect(t)
}
