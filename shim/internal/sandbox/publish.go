package sandbox

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/containerd/log"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	"github.com/huskvm/husk/shim/internal/hostnet"
)

// maxPublished is how many ports of a guest the host listens at.
const maxPublished = 1024

// publisher listens on the host where the guest listens, for a guest that is to have the host's network.
type publisher struct {
	vm     *vm
	except []netip.Addr // what listens there is the agent's

	mu        sync.Mutex
	listeners map[netip.AddrPort]*net.TCPListener // by the guest's address; nil where the host can't
	closed    bool
}

// update makes the listeners what the guest says it has.
func (p *publisher) update(told *agentv1.NextEventResponse_Listeners) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	var wanted []netip.AddrPort
	for _, l := range told.GetListeners() {
		ip, ok := netip.AddrFromSlice(l.GetIp())
		if !ok || l.GetPort() == 0 || l.GetPort() > 1<<16-1 || slices.Contains(p.except, ip) {
			continue
		}
		if len(wanted) == maxPublished {
			log.L.Warnf("the guest listens at more than %d ports; the host does not follow", maxPublished)
			break
		}
		wanted = append(wanted, netip.AddrPortFrom(ip, uint16(l.GetPort())))
	}
	for a, l := range p.listeners {
		if !slices.Contains(wanted, a) {
			if l != nil {
				_ = l.Close()
			}
			delete(p.listeners, a)
		}
	}
	for _, a := range wanted {
		if _, there := p.listeners[a]; there {
			continue
		}
		l, err := listenFor(a, wanted)
		if err != nil {
			log.L.WithError(err).Warnf("what listens at %s in the guest is not to be reached at the host", a)
		}
		p.listeners[a] = l
		if l != nil {
			go p.serve(l, a)
		}
	}
}

// listenFor listens on the host in place of a guest's listener. One at every address of IPv6 is at every one of IPv4
// too, unless another is there.
func listenFor(a netip.AddrPort, all []netip.AddrPort) (*net.TCPListener, error) {
	network, ip := "tcp", a.Addr()
	switch {
	case ip == hostnet.UserAddress():
		ip = netip.IPv4Unspecified()
	case ip == netip.IPv6Unspecified() && slices.Contains(all, netip.AddrPortFrom(netip.IPv4Unspecified(), a.Port())):
		network = "tcp6"
	case !ip.IsUnspecified() && !ip.IsLoopback():
		return nil, fmt.Errorf("the host does not have the address %s", ip)
	}
	if ip.Is4() {
		network = "tcp4"
	}
	l, err := net.ListenTCP(network, net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, a.Port())))
	if err != nil && network == "tcp" { // perhaps the host has no IPv6
		if four, err := net.ListenTCP("tcp4", &net.TCPAddr{Port: int(a.Port())}); err == nil {
			return four, nil
		}
	}
	return l, err
}

// serve takes a listener's connections to where the guest listens.
func (p *publisher) serve(l *net.TCPListener, a netip.AddrPort) {
	if a.Addr().IsUnspecified() {
		a = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), a.Port())
	}
	for {
		conn, err := l.AcceptTCP()
		if err != nil {
			return
		}
		go p.vm.forward(conn, a)
	}
}

// close frees the host's ports.
func (p *publisher) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, l := range p.listeners {
		if l != nil {
			_ = l.Close()
		}
	}
	return nil
}
