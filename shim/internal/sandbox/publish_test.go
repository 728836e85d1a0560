package sandbox

import (
	"net/netip"
	"testing"

	"github.com/containerd/log"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
)

// told is a guest that listens at some ports of an address, the first one included.
func told(ip string, first, count int, udp bool) *agentv1.NextEventResponse_Listeners {
	l := &agentv1.NextEventResponse_Listeners{}
	for port := first; port < first+count; port++ {
		l.Listeners = append(l.Listeners, &agentv1.NextEventResponse_Listener{
			Ip: netip.MustParseAddr(ip).AsSlice(), Port: uint32(port), Udp: udp,
		})
	}
	return l
}

func TestAGuestHasSoManyPorts(t *testing.T) {
	p := newPublisher(nil)
	p.leave(netip.MustParseAddr("127.0.0.53"))
	for _, c := range []struct {
		told *agentv1.NextEventResponse_Listeners
		want int
	}{
		{told("0.0.0.0", 1, 5000, false), maxPublished},
		{told("0.0.0.0", 1, 5000, true), maxPackets},
		{told("::", 65530, 100, true), 6}, // the rest are no ports
		{told("::", 0, 2, false), 1},
		{told("127.0.0.53", 53, 1, true), 0},
		{&agentv1.NextEventResponse_Listeners{Listeners: []*agentv1.NextEventResponse_Listener{{Ip: []byte{1, 2}, Port: 80}}}, 0},
	} {
		if got := len(p.wanted(c.told)); got != c.want {
			t.Errorf("%d ports of %d, want %d", got, len(c.told.Listeners), c.want)
		}
	}
}

// Whatever a guest does, the log does not grow with it.
func TestTheLogOfPortsIsBounded(t *testing.T) {
	_ = log.SetLevel("error")
	defer log.SetLevel("info")
	p := newPublisher(nil)
	const nowhere = "192.0.2.1" // which the host does not have
	for range 3 {
		p.update(told(nowhere, 80, 1, true))
		p.update(told(nowhere, 80, 0, true))
	}
	if p.lines != 1 || len(p.listeners) != 0 {
		t.Errorf("%d lines for one port, %d listeners", p.lines, len(p.listeners))
	}
	for first := 1; first < 10000; first += 100 {
		p.update(told(nowhere, first, 100, first%200 == 1))
	}
	if p.lines != maxSaid || len(p.said) > maxSaid {
		t.Errorf("%d lines, of %d ports", p.lines, len(p.said))
	}
}
