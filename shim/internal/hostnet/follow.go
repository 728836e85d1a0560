package hostnet

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
)

// Follower keeps a connected guest's network what its namespace is, until it is closed: Wait for a change, then Sync,
// and tell the guest.
type Follower struct {
	path   string
	key    Key
	events *nl.NetlinkSocket

	mu    sync.Mutex
	ports []port
	told  *agentv1.ConfigureNetworkRequest // what the guest has
	notes map[string]bool                  // given already
}

// port is one of the guest's devices.
type port struct {
	device net.HardwareAddr
	index  int // of the interface it is connected with; 0 while it is spare
}

// Follow begins to follow the namespace at path, which has been connected to n. It keeps the namespace in being.
func Follow(path string, key Key, n *Network) (*Follower, error) {
	f := &Follower{path: path, key: key, told: &agentv1.ConfigureNetworkRequest{Routes: n.Config.Routes, Neighbours: n.Config.Neighbours}, notes: map[string]bool{}}
	for i, tap := range n.Taps {
		p := port{device: tap.MAC}
		if i < len(n.indexes) {
			p.index = n.indexes[i]
			f.told.Interfaces = append(f.told.Interfaces, n.Config.Interfaces[i])
		}
		f.ports = append(f.ports, p)
	}
	for _, note := range n.Notes {
		f.notes[note] = true
	}
	err := inside(path, func(*netlink.Handle) (err error) {
		f.events, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
			unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("follow network namespace %s: %w", path, err)
	}
	return f, nil
}

// Close ends a Wait.
func (f *Follower) Close() { f.events.Close() }

const (
	// quietTime is how long nothing has to change before a change is taken for whole, and busyTime how long that is
	// waited for.
	quietTime = 20 * time.Millisecond
	busyTime  = time.Second
)

// Wait returns when something may have changed, and false when there is no more to wait for.
func (f *Follower) Wait() bool {
	event := func(timeout time.Duration) error {
		t := unix.NsecToTimeval(timeout.Nanoseconds())
		_ = f.events.SetReceiveTimeout(&t)
		_, _, err := f.events.Receive()
		return err
	}
	err := event(0)
	for end := time.Now().Add(busyTime); err == nil && time.Now().Before(end); {
		err = event(quietTime)
	}
	// Too much of it is something, too.
	return err == nil || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS)
}

// Sync connects spare devices with what has come, and takes back those of what has gone. It returns what to tell the
// guest, nil when that is nothing, and what the guest does not get. An interface for which there is no spare device is an
// error, after the rest was done.
func (f *Follower) Sync() (request *agentv1.ConfigureNetworkRequest, notes []string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	err = inside(f.path, func(h *netlink.Handle) error {
		there, err := read(h)
		if err != nil {
			return err
		}
		var missing error
		if request, missing, err = f.sync(h, there); err != nil {
			return err
		}
		for _, note := range there.Notes {
			if !f.notes[note] {
				f.notes[note] = true
				notes = append(notes, note)
			}
		}
		return missing
	})
	if err != nil {
		err = fmt.Errorf("network namespace %s: %w", f.path, err)
	}
	return request, notes, err
}

func (f *Follower) sync(h *netlink.Handle, there *found) (request *agentv1.ConfigureNetworkRequest, missing, err error) {
	request = &agentv1.ConfigureNetworkRequest{}
	for i := range f.ports {
		p := &f.ports[i]
		if p.index == 0 || slices.ContainsFunc(there.links, func(l netlink.Link) bool { return l.Attrs().Index == p.index }) {
			continue
		}
		if err := f.release(h, i); err != nil {
			return nil, nil, err
		}
		p.index = 0
	}
	now := there.Config
	var lacking []string
	for i, link := range there.links {
		n, err := f.port(h, link)
		if err != nil {
			return nil, nil, err
		}
		if n < 0 {
			lacking = append(lacking, link.Attrs().Name)
			continue
		}
		now.Interfaces[i].Device = f.ports[n].device
	}
	if len(lacking) > 0 {
		leaveOut(now, lacking)
		missing = fmt.Errorf("interface %s came when the VM had no spare device: connect it before the container is created, or set spare_interfaces in husk's configuration",
			lacking[0])
	}
	if !difference(request, f.told, now) {
		return nil, missing, nil
	}
	f.told = now
	return request, missing, nil
}

// port finds the interface's port, or connects it with a spare one; -1 when there is none. MTUs are kept the same.
func (f *Follower) port(h *netlink.Handle, link netlink.Link) (int, error) {
	at := func(index int) int {
		return slices.IndexFunc(f.ports, func(p port) bool { return p.index == index })
	}
	n := at(link.Attrs().Index)
	fresh := n < 0
	if fresh {
		n = at(0)
	}
	if n < 0 {
		return n, nil
	}
	tap, err := h.LinkByName(f.key.tapName(n))
	if err != nil {
		return n, fmt.Errorf("find tap %s: %w", f.key.tapName(n), err)
	}
	if mtu := link.Attrs().MTU; tap.Attrs().MTU != mtu {
		if err := h.LinkSetMTU(tap, mtu); err != nil {
			return n, fmt.Errorf("set MTU of tap %s to %d: %w", tap.Attrs().Name, mtu, err)
		}
	}
	if !fresh {
		return n, nil
	}
	if err := errors.Join(part(h, f.key, link), part(h, f.key, tap)); err != nil {
		return n, err
	}
	if err := join(h, f.key, link, tap); err != nil {
		return n, errors.Join(err, part(h, f.key, link))
	}
	f.ports[n].index = link.Attrs().Index
	return n, nil
}

// release parts port n from its interface, which may be gone.
func (f *Follower) release(h *netlink.Handle, n int) error {
	if tap, err := h.LinkByName(f.key.tapName(n)); err == nil {
		if err := part(h, f.key, tap); err != nil && !gone(err) {
			return err
		}
	}
	if link, err := h.LinkByIndex(f.ports[n].index); err == nil {
		if err := part(h, f.key, link); err != nil && !gone(err) {
			return err
		}
	}
	return nil
}

// leaveOut takes what belongs to some interfaces out of a configuration.
func leaveOut(c *agentv1.ConfigureNetworkRequest, names []string) {
	of := func(name string) bool { return slices.Contains(names, name) }
	c.Interfaces = slices.DeleteFunc(c.Interfaces, func(i *agentv1.Interface) bool { return of(i.Name) })
	c.Routes = slices.DeleteFunc(c.Routes, func(r *agentv1.Route) bool { return of(r.Interface) })
	c.Neighbours = slices.DeleteFunc(c.Neighbours, func(n *agentv1.Neighbour) bool { return of(n.Interface) })
}

// difference adds to a request what leads from one configuration to another, and says whether there is anything. What the
// guest has changed by itself meanwhile is left alone.
func difference(request, from, to *agentv1.ConfigureNetworkRequest) bool {
	gone := &agentv1.ConfigureNetworkRequest{}
	for _, o := range from.Interfaces {
		if !slices.ContainsFunc(to.Interfaces, func(i *agentv1.Interface) bool { return string(o.Device) == string(i.Device) }) {
			request.Interfaces = append(request.Interfaces, hidden(o.Device))
		}
	}
	renewed := map[string]bool{} // what an interface had goes and comes with it
	for _, i := range to.Interfaces {
		was := slices.IndexFunc(from.Interfaces, func(o *agentv1.Interface) bool { return string(o.Device) == string(i.Device) })
		if was >= 0 && proto.Equal(from.Interfaces[was], i) {
			continue
		}
		renewed[i.Name] = true
		request.Interfaces = append(request.Interfaces, i)
		if was < 0 {
			continue
		}
		if old := from.Interfaces[was]; old.Name != i.Name { // another interface, which begins anew
			request.Interfaces = slices.Insert(request.Interfaces, len(request.Interfaces)-1, hidden(i.Device))
		} else {
			if lost := without(old.Addresses, i.Addresses); len(lost) > 0 {
				gone.Interfaces = append(gone.Interfaces, &agentv1.Interface{Name: i.Name, Addresses: lost})
			}
		}
	}
	stays := func(name string) bool {
		return name == "" || slices.ContainsFunc(to.Interfaces, func(i *agentv1.Interface) bool { return i.Name == name })
	}
	for _, r := range without(from.Routes, to.Routes) {
		if stays(r.Interface) {
			gone.Routes = append(gone.Routes, r)
		}
	}
	for _, n := range without(from.Neighbours, to.Neighbours) {
		if stays(n.Interface) {
			gone.Neighbours = append(gone.Neighbours, n)
		}
	}
	come := without(to.Routes, from.Routes)
	for _, r := range to.Routes { // in their order
		if renewed[r.Interface] || slices.Contains(come, r) {
			request.Routes = append(request.Routes, r)
		}
	}
	neighbours := without(to.Neighbours, from.Neighbours)
	for _, n := range to.Neighbours {
		if renewed[n.Interface] || slices.Contains(neighbours, n) {
			request.Neighbours = append(request.Neighbours, n)
		}
	}
	if len(gone.Interfaces)+len(gone.Routes)+len(gone.Neighbours) > 0 {
		request.Gone = gone
	}
	return len(request.Interfaces)+len(request.Routes)+len(request.Neighbours) > 0 || request.Gone != nil
}

// without are those of all that are not among others.
func without[M proto.Message](all, others []M) (rest []M) {
	for _, m := range all {
		if !slices.ContainsFunc(others, func(o M) bool { return proto.Equal(m, o) }) {
			rest = append(rest, m)
		}
	}
	return rest
}
