package hostnet

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"

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

// The addresses of a guest's network in user mode are of a block that nobody routes (RFC 7335), since what has them is
// out of the guest's reach.
var (
	userGateway  = netip.MustParsePrefix("192.0.0.1/29")
	userGuest    = netip.MustParsePrefix("192.0.0.2/29")
	userLoopback = netip.MustParseAddr("192.0.0.3")
)

const (
	// userMTU is the most that a tap takes: what the guest sends is cut into packets by the host's sockets.
	userMTU      = 65520
	userLinkName = "eth0"
	// frameRoom is the socket's: as many frames as a window of TCP has.
	frameRoom = 8 << 20
)

// UserAddress is the guest's.
func UserAddress() netip.Addr { return userGuest.Addr() }

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
	n.configure(key.spareMAC(0))
	return n, nil
}

func (n *UserNetwork) configure(mac net.HardwareAddr) {
	n.Args = []string{
		"-guest", userGuest.String(), "-gateway", userGateway.String(), "-mtu", fmt.Sprint(userMTU), "-mac", mac.String(),
		"-alias", userLoopback.String() + "=127.0.0.1",
	}
	gateway := userGateway.Addr().AsSlice()
	n.Config = &agentv1.ConfigureNetworkRequest{
		Interfaces: []*agentv1.Interface{{
			Device: mac, Name: userLinkName, Mac: mac, Mtu: userMTU,
			Addresses: []*agentv1.Interface_Prefix{{Ip: userGuest.Addr().AsSlice(), Length: 32}},
		}},
		Routes: []*agentv1.Route{
			{Interface: userLinkName, Destination: gateway, DestinationLength: 32, Scope: unix.RT_SCOPE_LINK},
			{Interface: userLinkName, Gateway: gateway},
		},
		TellListeners: true,
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
