package sandbox

import (
	"io"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/containerd/log"

	"github.com/huskvm/husk/proto/datagram"
	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
)

const (
	// maxPublished is how many ports of a guest the host listens at, and maxPackets how many of these may be of UDP: each
	// has a stream for as long as it is there.
	maxPublished = 1024
	maxPackets   = 256
	// maxSaid is how many lines of the log there are about ports, whatever the guest does.
	maxSaid = 256
)

// packetPeers are a published port's; the guest's agent has as many sockets.
var packetPeers = datagram.Limits{Peers: 1024, Idle: 90 * time.Second}

// port is where a socket of the guest takes what comes.
type port struct {
	netip.AddrPort
	udp bool
}

func (p port) String() string {
	if p.udp {
		return p.AddrPort.String() + " (UDP)"
	}
	return p.AddrPort.String()
}

// publisher listens on the host where the guest listens, for a guest that is to have the host's network.
type publisher struct {
	vm *vm

	mu        sync.Mutex
	except    []netip.Addr         // what listens there is the agent's
	listeners map[port][]io.Closer // none where the host can't
	said      map[port]bool        // that the host can't
	lines     int                  // of the log
	full      bool                 // and the log says so
	closed    bool
}

func newPublisher(v *vm) *publisher {
	return &publisher{vm: v, listeners: map[port][]io.Closer{}, said: map[port]bool{}}
}

// leave does not publish what listens at an address, from now on.
func (p *publisher) leave(ip netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.except = append(p.except, ip)
}

// update makes the listeners what the guest says it has.
func (p *publisher) update(told *agentv1.NextEventResponse_Listeners) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	wanted := p.wanted(told)
	for a, sockets := range p.listeners {
		if !wanted[a] {
			closeAll(sockets)
			delete(p.listeners, a)
		}
	}
	for a := range wanted {
		if _, there := p.listeners[a]; there {
			continue
		}
		sockets, err := p.publish(a, wanted)
		line := func() {
			log.L.WithError(err).Warnf("what listens at %s in the guest is not to be reached at the host", a)
		}
		if err == nil {
			delete(p.said, a)
		} else if !p.said[a] && p.say(line) {
			p.said[a] = true
		}
		p.listeners[a] = sockets
	}
}

// say writes a line of the log, unless there have been too many.
func (p *publisher) say(line func()) bool {
	if p.lines == maxSaid {
		return false
	}
	line()
	if p.lines++; p.lines == maxSaid {
		log.L.Warn("of further ports that the host does not listen at in the guest's stead nothing is said")
	}
	return true
}

// wanted are the ports that the host is to listen at.
func (p *publisher) wanted(told *agentv1.NextEventResponse_Listeners) map[port]bool {
	wanted, packets, full := map[port]bool{}, 0, false
	for _, l := range told.GetListeners() {
		ip, ok := netip.AddrFromSlice(l.GetIp())
		if !ok || l.GetPort() == 0 || l.GetPort() > 1<<16-1 || slices.Contains(p.except, ip) {
			continue
		}
		a := port{netip.AddrPortFrom(ip, uint16(l.GetPort())), l.GetUdp()}
		switch {
		case wanted[a]:
		case len(wanted) == maxPublished || a.udp && packets == maxPackets:
			full = true
		default:
			wanted[a] = true
			if a.udp {
				packets++
			}
		}
	}
	if full && !p.full {
		p.say(func() {
			log.L.Warnf("the guest listens at more than %d ports, or %d of UDP; the host does not follow", maxPublished, maxPackets)
		})
	}
	p.full = full
	return wanted
}

// close frees the host's ports.
func (p *publisher) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, sockets := range p.listeners {
		closeAll(sockets)
	}
	return nil
}

func closeAll(sockets []io.Closer) {
	for _, s := range sockets {
		_ = s.Close()
	}
}
