package hostnet

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
)

// found is a namespace as it is, before anything is made in it.
type found struct {
	*Network
	links []netlink.Link // in the order of Config.Interfaces
	names map[int]string // by index
}

// read lists what the guest is to have.
func read(h *netlink.Handle) (*found, error) {
	n := &found{Network: &Network{Config: &agentv1.ConfigureNetworkRequest{}}, names: map[int]string{}}
	links, err := h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	slices.SortFunc(links, func(a, b netlink.Link) int { return cmp.Compare(a.Attrs().Index, b.Attrs().Index) })
	for _, link := range links {
		take, why := fit(link)
		if why != "" {
			n.note("interface %s: %s", link.Attrs().Name, why)
		}
		if !take {
			continue
		}
		if len(n.links) == maxInterfaces {
			return nil, fmt.Errorf("there are more than %d interfaces", maxInterfaces)
		}
		if err := n.addInterface(h, link); err != nil {
			return nil, fmt.Errorf("interface %s: %w", link.Attrs().Name, err)
		}
	}
	if len(n.links) == 0 {
		return n, nil
	}
	if err := n.addRoutes(h); err != nil {
		return nil, err
	}
	return n, n.addNeighbours(h)
}

func (n *found) note(format string, args ...any) {
	n.Notes = append(n.Notes, fmt.Sprintf(format, args...))
}

// fit says whether the guest can have an interface; and why not, where somebody may wonder.
func fit(link netlink.Link) (ok bool, why string) {
	a := link.Attrs()
	switch {
	case a.Flags&net.FlagLoopback != 0, a.Flags&net.FlagUp == 0, strings.HasPrefix(a.Name, tapPrefix):
		return false, "" // tunnels that the kernel makes in every namespace are down
	case a.MasterIndex != 0:
		return false, "the guest does not get what belongs to a bridge or a bond"
	case len(a.HardwareAddr) != 6 || a.EncapType != "ether":
		return false, "the guest gets Ethernet interfaces only"
	case link.Type() == "vlan" && a.NetNsID < 0:
		return false, "the guest gets the interface below, with the VLAN's frames as they are"
	}
	return true, ""
}

func (n *found) addInterface(h *netlink.Handle, link netlink.Link) error {
	a := link.Attrs()
	i := &agentv1.Interface{
		Device: a.HardwareAddr, Name: a.Name, Mac: a.HardwareAddr, Mtu: uint32(a.MTU),
		NoArp: a.RawFlags&unix.IFF_NOARP != 0,
	}
	addrs, err := h.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, addr := range addrs {
		four := addr.IP.To4() != nil
		i.Ipv6 = i.Ipv6 || !four
		if !four && addr.Flags&unix.IFA_F_PERMANENT == 0 {
			continue // from a router's advertisement, which the guest hears as well
		}
		ones, _ := addr.Mask.Size()
		p := &agentv1.Interface_Prefix{Ip: short(addr.IP), Length: uint32(ones), Scope: uint32(addr.Scope)}
		if four && addr.Broadcast != nil {
			p.Broadcast = short(addr.Broadcast)
		}
		if addr.Peer != nil && !addr.Peer.IP.Equal(addr.IP) {
			ones, _ := addr.Peer.Mask.Size()
			p.Peer, p.Length = short(addr.Peer.IP), uint32(ones)
		}
		i.Addresses = append(i.Addresses, p)
	}
	n.links = append(n.links, link)
	n.names[a.Index] = a.Name
	n.Config.Interfaces = append(n.Config.Interfaces, i)
	return nil
}

// short is 4 bytes for IPv4.
func short(ip net.IP) []byte {
	if four := ip.To4(); four != nil {
		return four
	}
	return ip
}

// addRoutes takes the main table over, but for what the guest's kernel adds by itself with each address.
func (n *found) addRoutes(h *netlink.Handle) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := h.RouteList(nil, family)
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if r.Protocol == unix.RTPROT_KERNEL || r.Protocol == unix.RTPROT_RA {
				continue
			}
			if len(r.MultiPath) > 0 || r.Encap != nil {
				n.note("route %s: the guest does not get routes with several next hops or an encapsulation", r)
				continue
			}
			name, known := n.names[r.LinkIndex]
			if !known && r.LinkIndex != 0 {
				continue // of an interface that the guest does not have
			}
			n.Config.Routes = append(n.Config.Routes, route(r, name, family))
		}
	}
	// A gateway can be used once there is a route to it.
	slices.SortStableFunc(n.Config.Routes, func(a, b *agentv1.Route) int {
		return cmp.Compare(min(len(a.Gateway), 1), min(len(b.Gateway), 1))
	})
	return nil
}

func route(r netlink.Route, name string, family int) *agentv1.Route {
	out := &agentv1.Route{
		Interface: name, Ipv6: family == netlink.FAMILY_V6,
		Gateway: short(r.Gw), Source: short(r.Src), Metric: uint32(r.Priority), Mtu: uint32(r.MTU),
		Onlink: r.Flags&int(netlink.FLAG_ONLINK) != 0,
		Scope:  uint32(r.Scope), Type: uint32(r.Type), Tos: uint32(r.Tos),
	}
	if r.Dst != nil {
		if ones, _ := r.Dst.Mask.Size(); ones > 0 {
			out.Destination, out.DestinationLength = short(r.Dst.IP), uint32(ones)
		}
	}
	if via, ok := r.Via.(*netlink.Via); ok {
		out.Gateway = short(via.Addr)
		if via.AddrFamily == netlink.FAMILY_V6 {
			out.Gateway = via.Addr.To16()
		}
	}
	return out
}

// addNeighbours takes over those that somebody has set.
func (n *found) addNeighbours(h *netlink.Handle) error {
	for _, link := range n.links {
		neighbours, err := h.NeighList(link.Attrs().Index, netlink.FAMILY_ALL)
		if err != nil {
			return fmt.Errorf("list neighbours of %s: %w", link.Attrs().Name, err)
		}
		for _, e := range neighbours {
			if e.State&netlink.NUD_PERMANENT == 0 || len(e.HardwareAddr) != 6 || e.IP == nil {
				continue
			}
			n.Config.Neighbours = append(n.Config.Neighbours, &agentv1.Neighbour{
				Interface: link.Attrs().Name, Ip: short(e.IP), Mac: e.HardwareAddr,
			})
		}
	}
	return nil
}
