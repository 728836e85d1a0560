package hostnet

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
)

// A guest that is to have the host's network has one in user mode instead: its tap is in a network namespace where
// nothing else is, and a process in the host's takes the frames from a socket there, and makes connections of them.

// UserNetwork is what that process, husk-net, is to be given, and the guest is.
type UserNetwork struct {
	*Network
	Frames *os.File // a socket of which each read and write is a frame; it is the caller's
	Args   []string // of the process
}

// family is what a guest's network in user mode has of IPv4 or IPv6.
type family struct{ gateway, guest, loopback netip.Addr }

// The addresses of a guest's network in user mode are of blocks that nobody routes (RFC 7335, RFC 4193), since what has
// them is out of the guest's reach.
var (
	userFour = family{
		gateway: netip.MustParseAddr("192.0.0.1"), guest: netip.MustParseAddr("192.0.0.2"), loopback: netip.MustParseAddr("192.0.0.3"),
	}
	userSix = family{
		gateway: netip.MustParseAddr("fd68:7573:6b00::1"), guest: netip.MustParseAddr("fd68:7573:6b00::2"),
		loopback: netip.MustParseAddr("fd68:7573:6b00::3"),
	}
)

const (
	// userMTU is the most that a tap takes: what the guest sends is cut into packets by the host's sockets.
	userMTU      = 65520
	userLinkName = "eth0"
	// frameRoom is the socket's: as many frames as a window of TCP has.
	frameRoom = 8 << 20
)

// IsUserAddress says whether an address is the guest's.
func IsUserAddress(ip netip.Addr) bool { return ip == userFour.guest || ip == userSix.guest }

// User makes a network in user mode, with its tap in the namespace at path.
func User(path string, key Key) (*UserNetwork, error) {
	n := &UserNetwork{Network: &Network{}}
	err := inside(path, func(h *netlink.Handle) error {
		tap, err := makeTap(h, key.tapName(0), 1, userMTU) // one process reads and writes at the other end
		if err != nil {
			return err
		}
		if n.Frames, err = openFrames(tap.link.Attrs().Index); err != nil {
			Tap{Files: tap.files}.close()
			return fmt.Errorf("frames of tap %s: %w", key.tapName(0), err)
		}
		n.Taps = []Tap{{Files: tap.files, MAC: key.spareMAC(0), MTU: userMTU}}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", path, err)
	}
	families := []family{userFour}
	if hasIPv6() {
		families = append(families, userSix)
	}
	n.configure(key.spareMAC(0), families)
	return n, nil
}

// hasIPv6 says whether the host has an address of IPv6 by which it reaches more than itself and its neighbours.
func hasIPv6() bool {
	all, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(all, func(a net.Addr) bool {
		prefix, ok := a.(*net.IPNet)
		return ok && prefix.IP.To4() == nil && prefix.IP.IsGlobalUnicast()
	})
}

func (n *UserNetwork) configure(mac net.HardwareAddr, families []family) {
	n.Args = []string{"-mtu", fmt.Sprint(userMTU), "-mac", mac.String()}
	eth0 := &agentv1.Interface{Device: mac, Name: userLinkName, Mac: mac, Mtu: userMTU}
	n.Config = &agentv1.ConfigureNetworkRequest{Interfaces: []*agentv1.Interface{eth0}, TellListeners: true}
	for _, f := range families {
		own, gateway, six := f.guest.AsSlice(), f.gateway.AsSlice(), f.guest.Is6()
		bits := uint32(f.guest.BitLen())
		loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if six {
			loopback = netip.IPv6Loopback()
		}
		n.Args = append(n.Args, "-guest", f.guest.String(), "-gateway", f.gateway.String(), "-alias", f.loopback.String()+"="+loopback.String())
		eth0.Ipv6 = eth0.Ipv6 || six
		eth0.Addresses = append(eth0.Addresses, &agentv1.Interface_Prefix{Ip: own, Length: bits})
		link := &agentv1.Route{Interface: userLinkName, Ipv6: six, Destination: gateway, DestinationLength: bits}
		if !six {
			link.Scope = unix.RT_SCOPE_LINK
		}
		n.Config.Routes = append(n.Config.Routes, link, &agentv1.Route{Interface: userLinkName, Ipv6: six, Gateway: gateway})
	}
}

// openFrames opens a packet socket on an interface of the thread's namespace.
func openFrames(index int) (*os.File, error) {
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL)) // as the network has it
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all))
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	for _, o := range []struct{ level, name, value int }{
		{unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1},
		{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, frameRoom},
		{unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, frameRoom},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			_ = unix.Close(fd)
			return nil, fmt.Errorf("set up a packet socket: %w", err)
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("bind a packet socket: %w", err)
	}
	return os.NewFile(uintptr(fd), "frames"), nil
}
