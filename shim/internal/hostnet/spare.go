package hostnet

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
)

// A guest cannot be given a device once it runs. One whose interface may come later begins with a spare one, on a tap
// that leads nowhere yet.

// spareMAC is the address of the key's spare device: locally administered, and not a group's.
func (k Key) spareMAC() net.HardwareAddr { return append(net.HardwareAddr{0x02}, k[3:]...) }

// Spare makes the tap of a spare device in the namespace at path.
func Spare(path string, key Key) (*Network, error) {
	n := &Network{Config: &agentv1.ConfigureNetworkRequest{}}
	err := inside(path, func(h *netlink.Handle) error {
		tap, err := makeTap(h, key.tapName(0), spareMTU)
		if err == nil {
			n.Taps = []Tap{{File: tap.file, MAC: key.spareMAC()}}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", path, err)
	}
	return n, nil
}

// spareMTU is the tap's until it has an interface.
const spareMTU = 1500

// ConnectSpare connects the interface that is in the namespace at path by now with the spare device. Without one, the
// guest is told to have none.
func ConnectSpare(path string, key Key) (n *Network, err error) {
	err = inside(path, func(h *netlink.Handle) error {
		there, err := read(h)
		if err != nil {
			return err
		}
		n = there.Network
		if len(there.links) == 0 {
			n.Config.Interfaces = []*agentv1.Interface{{Device: key.spareMAC()}}
			return nil
		}
		if len(there.links) > 1 {
			return fmt.Errorf("there are %d interfaces now, and the VM has one spare device: connect it with one network, or with all of them before it is created", len(there.links))
		}
		n.Config.Interfaces[0].Device = key.spareMAC()
		link, err := h.LinkByName(key.tapName(0))
		if err != nil {
			return fmt.Errorf("find tap %s: %w", key.tapName(0), err)
		}
		if err := h.LinkSetMTU(link, there.links[0].Attrs().MTU); err != nil {
			return fmt.Errorf("set MTU of tap %s: %w", key.tapName(0), err)
		}
		// An earlier start may have got this far.
		if err := errors.Join(part(h, key, there.links[0]), part(h, key, link)); err != nil {
			return err
		}
		if err := join(h, key, there.links[0], link); err != nil {
			return errors.Join(err, part(h, key, there.links[0]))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", path, err)
	}
	return n, nil
}
