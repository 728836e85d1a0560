package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"github.com/containerd/log"

	"github.com/huskvm/husk/proto/datagram"
	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	"github.com/huskvm/husk/shim/internal/hostnet"
	"github.com/huskvm/husk/shim/internal/stdio"
)

// inGuest is where the guest's socket is to be dialled in there.
func (p port) inGuest() netip.AddrPort {
	switch {
	case !p.Addr().IsUnspecified():
		return p.AddrPort
	case p.udp && p.Addr().Is6():
		return netip.AddrPortFrom(netip.IPv6Loopback(), p.Port())
	default: // where connections are refused, the guest's agent tries IPv6's
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), p.Port())
	}
}

// publish listens on the host in place of a guest's listener. One at every address of IPv6 is at every one of IPv4 too,
// unless another is there.
func (p *publisher) publish(a port, all map[port]bool) ([]io.Closer, error) {
	ip := a.Addr()
	everywhere := port{netip.AddrPortFrom(netip.IPv4Unspecified(), a.Port()), a.udp}
	both := ip == netip.IPv6Unspecified() && !all[everywhere]
	switch {
	case hostnet.IsUserAddress(ip) && ip.Is4():
		ip = netip.IPv4Unspecified()
	case hostnet.IsUserAddress(ip):
		ip = netip.IPv6Unspecified()
	case !ip.IsUnspecified() && !ip.IsLoopback():
		return nil, fmt.Errorf("the host does not have the address %s", ip)
	}
	at := netip.AddrPortFrom(ip, a.Port())
	if a.udp {
		return p.publishPackets(at, a, both)
	}
	l, err := listenAt(at, both)
	if err != nil {
		return nil, err
	}
	go p.serve(l, a.inGuest())
	return []io.Closer{l}, nil
}

// listenAt listens for connections, perhaps at IPv4's addresses as well.
func listenAt(at netip.AddrPort, both bool) (*net.TCPListener, error) {
	network := "tcp6"
	switch {
	case both:
		network = "tcp"
	case at.Addr().Is4():
		network = "tcp4"
	}
	l, err := net.ListenTCP(network, net.TCPAddrFromAddrPort(at))
	if err != nil && both { // perhaps the host has no IPv6
		if four, err := net.ListenTCP("tcp4", &net.TCPAddr{Port: int(at.Port())}); err == nil {
			return four, nil
		}
	}
	return l, err
}

// serve takes a listener's connections to where the guest listens.
func (p *publisher) serve(l *net.TCPListener, a netip.AddrPort) {
	for {
		conn, err := l.AcceptTCP()
		if stdio.Again(err) {
			continue
		}
		if err != nil {
			return
		}
		go p.vm.forward(conn, a)
	}
}

// publishPackets makes the host's sockets for one of the guest's that takes datagrams: one of each family, whose answers
// are to come from the address that was asked.
func (p *publisher) publishPackets(at netip.AddrPort, a port, both bool) (sockets []io.Closer, err error) {
	six, four := at.Addr().Is6(), at.Addr().Is4() || both
	var errs []error
	for network, wanted := range map[string]bool{"udp6": six, "udp4": four} {
		if !wanted {
			continue
		}
		bind := at
		if network == "udp4" && both {
			bind = netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port())
		}
		socket, err := datagram.Listen(network, bind)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		go p.servePackets(socket, a)
		sockets = append(sockets, socket)
	}
	if len(sockets) > 0 {
		return sockets, nil // perhaps the host has no IPv6
	}
	return nil, errors.Join(errs...)
}

// servePackets takes the datagrams of a socket to where the guest takes them, and back the answers, until the socket is
// closed.
func (p *publisher) servePackets(socket *net.UDPConn, a port) {
	v, to := p.vm, a.inGuest()
	stream, err := v.hub.Connect(func(id string) error {
		ctx, cancel := context.WithTimeout(v.ctx, forwardTime)
		defer cancel()
		_, err := v.agent.Forward(ctx, &agentv1.ForwardRequest{
			Ip: to.Addr().AsSlice(), Port: uint32(to.Port()), Stream: id, Udp: true,
		})
		return err
	})
	if err != nil {
		_ = socket.Close()
		p.lost(a, err)
		return
	}
	defer context.AfterFunc(v.ctx, func() { _ = socket.Close() })()
	_ = datagram.Gather(socket, stream, packetPeers)
}

// lost says that the host listens for the guest at a port no more, though the guest still does.
func (p *publisher) lost(a port, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, wanted := p.listeners[a]; wanted && !p.closed {
		p.say(func() { log.L.WithError(err).Warnf("what is sent to %s does not reach the guest", a) })
	}
}
