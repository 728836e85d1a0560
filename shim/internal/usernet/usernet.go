// Package usernet is a network in user mode for one guest: what the guest sends is sent again, by sockets of this
// process, in the network namespace that it is in. It is called by husk-net, which is a process of its own so that
// nobody else carries the stack (gVisor's) along.
//
// The guest is hostile. Frames that are not plainly its own, for the gateway, go no further than the link; connections
// that are being made, and flows of datagrams, are bounded in number.
package usernet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// Config is what the guest is told as well. There is a guest's and a gateway's address of each family that is spoken.
type Config struct {
	Guests, Gateways []netip.Addr
	GuestMAC         net.HardwareAddr
	MTU              int
	// Aliases are addresses that stand for addresses of the host.
	Aliases map[netip.Addr]netip.Addr
}

// gatewayMAC is locally administered.
var gatewayMAC = net.HardwareAddr{0x02, 0x68, 0x75, 0x73, 0x6b, 0x01}

const nic = 1

// Serve passes frames until there are no more.
func Serve(frames *os.File, c Config) error {
	l := &link{frames: frames, config: c}
	n := &network{aliases: c.Aliases, table: table{flows: map[*flow]struct{}{}}}
	s, err := newStack(l, c)
	if err != nil {
		return fmt.Errorf("make the network: %w", err)
	}
	defer s.Destroy()
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, tcp.NewForwarder(s, 0, maxDials, n.connect).HandlePacket)
	s.SetTransportProtocolHandler(udp.ProtocolNumber, udp.NewForwarder(s, n.open).HandlePacket)
	return l.read()
}

// network is where what the guest sends is sent again.
type network struct {
	aliases map[netip.Addr]netip.Addr
	table
}

// destination is where the guest wants to.
func (n *network) destination(id stack.TransportEndpointID) netip.AddrPort {
	ip := addrOf(id.LocalAddress)
	if alias, ok := n.aliases[ip]; ok {
		ip = alias
	}
	return netip.AddrPortFrom(ip, id.LocalPort)
}

func addrOf(a tcpip.Address) netip.Addr {
	ip, _ := netip.AddrFromSlice(a.AsSlice())
	return ip
}

// newStack has the gateway's addresses, and takes what is for any other.
func newStack(l *link, c Config) (*stack.Stack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	var errs []error
	check := func(what string, err tcpip.Error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %s", what, err))
		}
	}
	check("attach the link", s.CreateNIC(nic, l))
	for _, ip := range c.Gateways {
		address := tcpip.ProtocolAddress{Protocol: protocolOf(ip), AddressWithPrefix: tcpip.AddrFromSlice(ip.AsSlice()).WithPrefix()}
		check("add "+ip.String(), s.AddProtocolAddress(nic, address, stack.AddressProperties{}))
	}
	var routes []tcpip.Route
	for _, ip := range c.Guests {
		guest := tcpip.AddrFromSlice(ip.AsSlice())
		routes = append(routes, tcpip.Route{Destination: guest.WithPrefix().Subnet(), NIC: nic})
		check("add "+ip.String(), s.AddStaticNeighbor(nic, protocolOf(ip), guest, tcpip.LinkAddress(c.GuestMAC)))
	}
	s.SetRouteTable(routes)
	check("take all addresses", s.SetPromiscuousMode(nic, true))
	check("answer from all addresses", s.SetSpoofing(nic, true))
	sack := tcpip.TCPSACKEnabled(true)
	check("set up TCP", s.SetTransportProtocolOption(tcp.ProtocolNumber, &sack))
	return s, errors.Join(errs...)
}

func protocolOf(ip netip.Addr) tcpip.NetworkProtocolNumber {
	if ip.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}
