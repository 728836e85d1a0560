package usernet

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// link is the gateway's end of the guest's wire: a socket of which each read and write is a frame. It implements
// stack.LinkEndpoint.
type link struct {
	frames *os.File
	config Config
	stack  stack.NetworkDispatcher
}

// maxFrame is more than a tap gives.
const maxFrame = 128 << 10

// read passes the guest's frames to the stack, until there are no more.
func (l *link) read() error {
	buf := make([]byte, maxFrame)
	for {
		n, err := l.frames.Read(buf)
		if err != nil {
			return err
		}
		f := buf[:n]
		if !l.admits(f) {
			continue
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(f[header.EthernetMinimumSize:])})
		l.stack.DeliverNetworkPacket(header.Ethernet(f).Type(), pkt)
		pkt.DecRef()
	}
}

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// multicast6 begins the hardware addresses of IPv6's groups (RFC 2464).
var multicast6 = []byte{0x33, 0x33}

// Where packets have what admits looks at.
const (
	arpTarget     = 24
	ip4Protocol   = 9
	ip4To         = 16
	ip6Next       = 6
	ip6To         = 24
	icmp6Type     = header.IPv6MinimumSize
	solicitTarget = header.IPv6MinimumSize + 8
)

// admits says whether a frame is the guest's and for the gateway or all, of a family that is spoken. Echos and hardware
// addresses are asked of the gateway alone: the stack would answer for everybody.
func (l *link) admits(f []byte) bool {
	if len(f) <= header.EthernetMinimumSize || !bytes.Equal(f[6:12], l.config.GuestMAC) {
		return false
	}
	to, packet := f[:6], f[header.EthernetMinimumSize:]
	direct := bytes.Equal(to, gatewayMAC)
	switch header.Ethernet(f).Type() {
	case header.ARPProtocolNumber:
		return (direct || bytes.Equal(to, broadcast)) && len(packet) >= header.ARPSize && l.isGateway(packet[arpTarget:][:4])
	case header.IPv4ProtocolNumber:
		if !direct || len(packet) < header.IPv4MinimumSize {
			return false
		}
		return packet[ip4Protocol] != uint8(header.ICMPv4ProtocolNumber) || l.isGateway(packet[ip4To:][:4])
	case header.IPv6ProtocolNumber:
		if !l.speaks6() || len(packet) <= header.IPv6MinimumSize {
			return false
		}
		if packet[ip6Next] != uint8(header.ICMPv6ProtocolNumber) {
			return direct
		}
		switch header.ICMPv6Type(packet[icmp6Type]) {
		case header.ICMPv6EchoRequest:
			return direct && l.isGateway(packet[ip6To:][:16])
		case header.ICMPv6NeighborSolicit:
			group := bytes.Equal(to[:2], multicast6)
			return (direct || group) && len(packet) >= solicitTarget+16 && l.isGateway(packet[solicitTarget:][:16])
		}
	}
	return false
}

func (l *link) isGateway(address []byte) bool {
	ip, _ := netip.AddrFromSlice(address)
	return slices.Contains(l.config.Gateways, ip)
}

func (l *link) speaks6() bool { return slices.ContainsFunc(l.config.Gateways, netip.Addr.Is6) }

// WritePackets implements stack.LinkWriter.
func (l *link) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	for i, pkt := range list.AsSlice() {
		if err := l.write(pkt); err != nil {
			return i, &tcpip.ErrAborted{}
		}
	}
	return list.Len(), nil
}

// roomTime is between tries to send a frame for which the kernel has no room; it does not tell when it has.
const roomTime = 100 * time.Microsecond

func (l *link) write(pkt *stack.PacketBuffer) error {
	header.Ethernet(pkt.LinkHeader().Push(header.EthernetMinimumSize)).Encode(&header.EthernetFields{
		SrcAddr: l.LinkAddress(), DstAddr: pkt.EgressRoute.RemoteLinkAddress, Type: pkt.NetworkProtocolNumber,
	})
	view := pkt.ToView()
	defer view.Release()
	for {
		_, err := l.frames.Write(view.AsSlice())
		if !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		time.Sleep(roomTime)
	}
}

// The rest of stack.LinkEndpoint.

func (l *link) MTU() uint32                             { return uint32(l.config.MTU) }
func (l *link) SetMTU(uint32)                           {}
func (l *link) MaxHeaderLength() uint16                 { return header.EthernetMinimumSize }
func (l *link) LinkAddress() tcpip.LinkAddress          { return tcpip.LinkAddress(gatewayMAC) }
func (l *link) SetLinkAddress(tcpip.LinkAddress)        {}
func (l *link) Attach(d stack.NetworkDispatcher)        { l.stack = d }
func (l *link) IsAttached() bool                        { return l.stack != nil }
func (l *link) Wait()                                   {}
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (l *link) AddHeader(*stack.PacketBuffer)           {}
func (l *link) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (l *link) Close()                                  {}
func (l *link) SetOnCloseAction(func())                 {}

// Capabilities: checksums are the guest's kernel's, which leaves them out where nothing can be damaged.
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityResolutionRequired | stack.CapabilityRXChecksumOffload
}
