package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// With checksums and segmentation left to the host, packets of TCP are larger than the MTU, both ways.
func TestSegmentsPassInOnePiece(t *testing.T) {
	n := newNetns(t)
	own, gateway := n.add("eth0", bridge(t, 1500)).address(t, false)
	c := start(t, n.flags(), webServer()...)
	// size is a packet's on average, of those that came or went meanwhile.
	size := func(way string, transfer func()) int {
		t.Helper()
		count := func() (bytes, packets int) {
			t.Helper()
			out := c.exec(t, "sh", "-c", fmt.Sprintf("cd /sys/class/net/eth0/statistics && cat %s_bytes %s_packets", way, way))
			if _, err := fmt.Sscan(out, &bytes, &packets); err != nil {
				t.Fatalf("%q: %v", out, err)
			}
			return bytes, packets
		}
		bytes, packets := count()
		transfer()
		bytesAfter, packetsAfter := count()
		return (bytesAfter - bytes) / (packetsAfter - packets)
	}
	get(t, "http://"+own+"/sum")
	if s := size("tx", func() { checkBig(t, "http://"+own) }); s < 3000 {
		t.Errorf("the guest sends packets of %d bytes", s)
	}
	url, sum := hostServer(t, gateway)
	if s := size("rx", func() {
		if got := c.exec(t, "sh", "-c", "wget -q -O- "+url+" | sha256sum"); !strings.HasPrefix(got, sum) {
			t.Errorf("the sum is %s, want %s", got, sum)
		}
	}); s < 3000 {
		t.Errorf("the guest receives packets of %d bytes", s)
	}
}
