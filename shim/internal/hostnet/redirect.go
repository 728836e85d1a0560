package hostnet

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// priority is after whatever anybody else filters at the same place. By it our filters are found.
const priority = 49000

// join redirects all that arrives at an interface to its tap, and back.
func join(h *netlink.Handle, key Key, link, tap netlink.Link) error {
	if err := vacant(h, link); err != nil {
		return err
	}
	if err := redirect(h, key, link, tap); err != nil {
		return err
	}
	return redirect(h, key, tap, link)
}

// vacant makes sure that no living sandbox has the interface; what a dead one has left is removed.
func vacant(h *netlink.Handle, link netlink.Link) error {
	filters, err := ours(h, link)
	if err != nil {
		return err
	}
	for _, f := range filters {
		if f.RedirIndex > 0 {
			if other, err := h.LinkByIndex(f.RedirIndex); err == nil {
				return fmt.Errorf("interface %s is connected to another VM already, by %s", link.Attrs().Name, other.Attrs().Name)
			}
		}
	}
	if len(filters) == 0 {
		return nil
	}
	if err := remove(h, link); err != nil {
		return fmt.Errorf("remove a dead VM's filter from %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// remove removes what is at our priority on an interface: the filter, and the table that u32 has made for it.
func remove(h *netlink.Handle, link netlink.Link) error {
	err := h.FilterDel(&netlink.GenericFilter{FilterType: "u32", FilterAttrs: netlink.FilterAttrs{
		LinkIndex: link.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: priority, Protocol: unix.ETH_P_ALL,
	}})
	if err != nil && !gone(err) {
		return err
	}
	return nil
}

// redirect makes every frame that arrives at from leave by to.
func redirect(h *netlink.Handle, key Key, from, to netlink.Link) error {
	name := from.Attrs().Name
	qdisc := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: from.Attrs().Index, Parent: netlink.HANDLE_INGRESS, Handle: netlink.MakeHandle(0xffff, 0),
	}}
	// One that is there, or a clsact, does as well.
	if err := h.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add an ingress queueing discipline to %s: %w%s", name, err, remedy(err, "sch_ingress"))
	}
	filter := &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: from.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, // of a clsact as well
			Priority: priority, Protocol: unix.ETH_P_ALL,
		},
		Sel:     selector(key),
		Actions: []netlink.Action{netlink.NewMirredAction(to.Attrs().Index)},
	}
	if err := h.FilterAdd(filter); err != nil {
		return fmt.Errorf("redirect %s to %s: %w%s", name, to.Attrs().Name, err, remedy(err, "cls_u32 and act_mirred"))
	}
	return nil
}

func remedy(err error, modules string) string {
	if errors.Is(err, unix.ENOENT) {
		return ": load the kernel's modules " + modules
	}
	return ""
}

// selector matches everything: no bit of its values counts, so they have room for the key.
func selector(key Key) *netlink.TcU32Sel {
	sel := &netlink.TcU32Sel{Flags: netlink.TC_U32_TERMINAL, Nkeys: 2, Keys: make([]netlink.TcU32Key, 2)}
	for i, w := range key.words() {
		sel.Keys[i].Val = w
	}
	return sel
}

// part removes the key's filter from an interface, and the queueing discipline when nobody filters there any more.
func part(h *netlink.Handle, key Key, link netlink.Link) error {
	filters, err := ours(h, link)
	if err != nil || len(filters) == 0 {
		return err
	}
	found := false
	for _, f := range filters {
		if keys := f.Sel.Keys; len(keys) != 2 || [2]uint32{keys[0].Val, keys[1].Val} != key.words() {
			continue
		}
		found = true
	}
	if !found {
		return nil
	}
	if err := remove(h, link); err != nil {
		return fmt.Errorf("remove filter: %w", err)
	}
	rest, err := h.FilterList(link, netlink.HANDLE_MIN_INGRESS)
	if err != nil || len(rest) > 0 {
		return err
	}
	qdiscs, err := h.QdiscList(link)
	if err != nil {
		return fmt.Errorf("list queueing disciplines: %w", err)
	}
	for _, q := range qdiscs {
		if q.Type() == "ingress" {
			if err := h.QdiscDel(q); err != nil && !gone(err) && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("remove queueing discipline: %w", err)
			}
		}
	}
	return nil
}

// ours are the filters that a sandbox, any, has on an interface.
func ours(h *netlink.Handle, link netlink.Link) ([]*netlink.U32, error) {
	filters, err := h.FilterList(link, netlink.HANDLE_MIN_INGRESS)
	if err != nil {
		if errors.Is(err, unix.EINVAL) || gone(err) { // no queueing discipline to have filters
			return nil, nil
		}
		return nil, fmt.Errorf("list filters: %w", err)
	}
	var found []*netlink.U32
	for _, f := range filters {
		if u, ok := f.(*netlink.U32); ok && u.Priority == priority && u.Sel != nil && len(u.Sel.Keys) == 2 {
			found = append(found, u)
		}
	}
	return found, nil
}
