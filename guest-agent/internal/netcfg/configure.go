package netcfg

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	"golang.org/x/sys/unix"
)

// Interfaces are those that the host gives the guest. The zero value is ready.
type Interfaces struct {
	mu      sync.Mutex
	devices devices
}

// Configure makes the interfaces what the host says they are. An interface is named by its device's address, and gets
// its own name first; without a name it is taken away, until it has one. It can be called again: what is there already
// stays, but for what the host says is gone.
func (n *Interfaces) Configure(cfg *agentv1.ConfigureNetworkRequest) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.close()
	if err := n.devices.learn(); err != nil {
		return err
	}
	if err := c.remove(cfg.GetGone()); err != nil {
		return err
	}
	var wanted []*agentv1.Interface
	for _, i := range cfg.GetInterfaces() {
		if i.GetName() == "" {
			err = n.devices.hide(i.GetDevice())
		} else {
			err = n.devices.show(i.GetDevice())
			wanted = append(wanted, i)
		}
		if err != nil {
			return fmt.Errorf("device %s: %w", net.HardwareAddr(i.GetDevice()), err)
		}
	}
	devices, err := c.rename(wanted, n.devices)
	if err != nil {
		return err
	}
	for i, want := range wanted {
		if err := c.setUp(devices[i], want); err != nil {
			return fmt.Errorf("interface %s: %w", want.GetName(), err)
		}
	}
	for _, n := range cfg.GetNeighbours() {
		i, err := index(n.GetInterface())
		if err == nil {
			err = c.addNeighbour(i, n)
		}
		if err != nil {
			return fmt.Errorf("add neighbour %s: %w", net.IP(n.GetIp()), err)
		}
	}
	for _, r := range cfg.GetRoutes() {
		i, err := index(r.GetInterface())
		if err == nil {
			err = c.addRoute(i, r)
		}
		if err != nil {
			return fmt.Errorf("add route to %s/%d through %s on %s: %w",
				net.IP(r.GetDestination()), r.GetDestinationLength(), net.IP(r.GetGateway()), r.GetInterface(), err)
		}
	}
	return nil
}

// index is an interface's; without a name none is meant.
func index(name string) (int, error) {
	if name == "" {
		return 0, nil
	}
	i, err := net.InterfaceByName(name)
	if err != nil {
		return 0, fmt.Errorf("interface %s: %w", name, err)
	}
	return i.Index, nil
}

// rename finds each interface's device and gives it its name. Those that have another's name go out of the way first.
func (c *conn) rename(wanted []*agentv1.Interface, known devices) (indexes []int, err error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	names := map[string]bool{}
	for _, want := range wanted {
		names[want.GetName()] = true
	}
	right := map[int]bool{}
	for _, want := range wanted {
		name := known.interfaceOf(want.GetDevice())
		found := slices.IndexFunc(all, func(have net.Interface) bool {
			// One that has no device of virtio is known by its address, or by what that was made.
			configured := have.Name == want.GetName() && bytes.Equal(have.HardwareAddr, want.GetMac())
			return have.Name == name || name == "" && (configured || bytes.Equal(have.HardwareAddr, want.GetDevice()))
		})
		if found < 0 {
			return nil, fmt.Errorf("interface %s: there is no device with the address %s", want.GetName(), net.HardwareAddr(want.GetDevice()))
		}
		indexes = append(indexes, all[found].Index)
		right[all[found].Index] = all[found].Name == want.GetName()
	}
	for _, have := range all {
		if names[have.Name] && !right[have.Index] {
			if err := c.setName(have.Index, fmt.Sprintf("husk%d", have.Index)); err != nil {
				return nil, fmt.Errorf("interface %s: rename it: %w", have.Name, err)
			}
		}
	}
	for i, want := range wanted {
		if right[indexes[i]] {
			continue
		}
		if err := c.setName(indexes[i], want.GetName()); err != nil {
			return nil, fmt.Errorf("name interface %s: %w", want.GetName(), err)
		}
	}
	return indexes, nil
}

// setUp brings an interface up, with its addresses.
func (c *conn) setUp(index int, want *agentv1.Interface) error {
	if err := setIPv6(want); err != nil {
		return err
	}
	if err := c.setLink(index, want); err != nil {
		return err
	}
	for _, a := range want.GetAddresses() {
		if err := c.addAddress(index, a); err != nil {
			return fmt.Errorf("add address %s/%d: %w", net.IP(a.GetIp()), a.GetLength(), err)
		}
	}
	return nil
}

// setIPv6 is before the interface comes up. The addresses are in use by the host's interface already: looking for
// others that have them would find nobody, and keep the container waiting.
func setIPv6(want *agentv1.Interface) error {
	dir := filepath.Join("/proc/sys/net/ipv6/conf", want.GetName())
	off := "1"
	if want.GetIpv6() {
		off = "0"
	}
	for _, s := range []struct{ name, value string }{{"disable_ipv6", off}, {"accept_dad", "0"}} {
		if err := os.WriteFile(filepath.Join(dir, s.name), []byte(s.value), 0); err != nil && want.GetIpv6() {
			return fmt.Errorf("set %s: %w", s.name, err)
		}
	}
	return nil
}

// infoMessage is struct ifinfomsg.
func infoMessage(index int, flags, change uint32) request {
	b := []byte{unix.AF_UNSPEC, 0, 0, 0}
	b = native.AppendUint32(b, uint32(index))
	b = native.AppendUint32(b, flags)
	return newRequest(native.AppendUint32(b, change)...)
}

func (c *conn) setName(index int, name string) error {
	return c.do(unix.RTM_SETLINK, 0, infoMessage(index, 0, 0).add(unix.IFLA_IFNAME, append([]byte(name), 0)))
}

func (c *conn) setLink(index int, want *agentv1.Interface) error {
	r := infoMessage(index, 0, 0)
	if !bytes.Equal(want.GetMac(), want.GetDevice()) {
		r = r.add(unix.IFLA_ADDRESS, want.GetMac())
	}
	if want.GetMtu() > 0 {
		r = r.add32(unix.IFLA_MTU, want.GetMtu())
	}
	if err := c.do(unix.RTM_SETLINK, 0, r); err != nil {
		return fmt.Errorf("set address %s and MTU %d: %w", net.HardwareAddr(want.GetMac()), want.GetMtu(), err)
	}
	flags := uint32(unix.IFF_UP)
	if want.GetNoArp() {
		flags |= unix.IFF_NOARP
	}
	if err := c.do(unix.RTM_SETLINK, 0, infoMessage(index, flags, flags)); err != nil {
		return fmt.Errorf("bring it up: %w", err)
	}
	return nil
}

func family(ip []byte) byte {
	if len(ip) == net.IPv6len {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func (c *conn) addAddress(index int, a *agentv1.Interface_Prefix) error {
	return c.do(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, addressMessage(index, a))
}

// addressMessage is struct ifaddrmsg.
func addressMessage(index int, a *agentv1.Interface_Prefix) request {
	fixed := []byte{family(a.GetIp()), byte(a.GetLength()), unix.IFA_F_NODAD, byte(a.GetScope())}
	r := newRequest(native.AppendUint32(fixed, uint32(index))...).add(unix.IFA_LOCAL, a.GetIp())
	if len(a.GetPeer()) > 0 {
		r = r.add(unix.IFA_ADDRESS, a.GetPeer())
	} else {
		r = r.add(unix.IFA_ADDRESS, a.GetIp())
	}
	return r.add(unix.IFA_BROADCAST, a.GetBroadcast())
}

func (c *conn) addRoute(index int, r *agentv1.Route) error {
	return c.do(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, routeMessage(index, r))
}

// routeMessage is struct rtmsg.
func routeMessage(index int, r *agentv1.Route) request {
	ip, kind, flags := byte(unix.AF_INET), byte(r.GetType()), uint32(0)
	if r.GetIpv6() {
		ip = unix.AF_INET6
	}
	if kind == unix.RTN_UNSPEC {
		kind = unix.RTN_UNICAST
	}
	if r.GetOnlink() {
		flags |= unix.RTNH_F_ONLINK
	}
	fixed := []byte{ip, byte(r.GetDestinationLength()), 0, byte(r.GetTos()),
		unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, byte(r.GetScope()), kind}
	m := newRequest(native.AppendUint32(fixed, flags)...).add(unix.RTA_DST, r.GetDestination())
	switch gateway := r.GetGateway(); {
	case len(gateway) > 0 && family(gateway) != ip:
		m = m.add(unix.RTA_VIA, append(native.AppendUint16(nil, uint16(family(gateway))), gateway...))
	default:
		m = m.add(unix.RTA_GATEWAY, gateway)
	}
	m = m.add(unix.RTA_PREFSRC, r.GetSource())
	if index > 0 {
		m = m.add32(unix.RTA_OIF, uint32(index))
	}
	if r.GetMetric() > 0 {
		m = m.add32(unix.RTA_PRIORITY, r.GetMetric())
	}
	if r.GetMtu() > 0 {
		m = m.add(unix.RTA_METRICS, request(nil).add32(unix.RTAX_MTU, r.GetMtu()))
	}
	return m
}

func (c *conn) addNeighbour(index int, n *agentv1.Neighbour) error {
	return c.do(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, neighbourMessage(index, n))
}

// neighbourMessage is struct ndmsg.
func neighbourMessage(index int, n *agentv1.Neighbour) request {
	fixed := native.AppendUint32([]byte{family(n.GetIp()), 0, 0, 0}, uint32(index))
	fixed = append(native.AppendUint16(fixed, unix.NUD_PERMANENT), 0, unix.RTN_UNICAST)
	return newRequest(fixed...).add(unix.NDA_DST, n.GetIp()).add(unix.NDA_LLADDR, n.GetMac())
}
