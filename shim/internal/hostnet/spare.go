package hostnet

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
)

// A guest cannot be given a device once it runs. One whose interfaces may come later begins with spare ones, on taps
// that lead nowhere yet; the agent hides them.

// spareMAC is the address of the key's spare device on tap number i: locally administered, and not a group's.
func (k Key) spareMAC(i int) net.HardwareAddr {
	mac := append(net.HardwareAddr{0x02}, k[3:]...)
	mac[5] ^= byte(i)
	return mac
}

// spareMTU is the tap's until it has an interface.
const spareMTU = 1500

// addSpares makes the taps of spare devices, after the others.
func (n *Network) addSpares(h *netlink.Handle, key Key, queues, count int) error {
	for range count {
		i := len(n.Taps)
		if i == maxInterfaces {
			return fmt.Errorf("there are more than %d interfaces and spare ones", maxInterfaces)
		}
		tap, err := makeTap(h, key.tapName(i), queues, spareMTU)
		if err != nil {
			return err
		}
		n.Taps = append(n.Taps, Tap{Files: tap.files, MAC: key.spareMAC(i)})
		n.Config.Interfaces = append(n.Config.Interfaces, hidden(key.spareMAC(i)))
	}
	return nil
}

// hidden takes a device away from the guest.
func hidden(device net.HardwareAddr) *agentv1.Interface { return &agentv1.Interface{Device: device} }
