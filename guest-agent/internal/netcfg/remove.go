package netcfg

import (
	"errors"
	"fmt"
	"net"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	"golang.org/x/sys/unix"
)

// remove takes away what the host has no more. What the guest has taken away itself, or the kernel with something else,
// is gone already.
func (c *conn) remove(gone *agentv1.ConfigureNetworkRequest) error {
	for _, r := range gone.GetRoutes() {
		if i, err := index(r.GetInterface()); err == nil {
			if err := c.delete(unix.RTM_DELROUTE, routeMessage(i, r)); err != nil {
				return fmt.Errorf("remove route to %s/%d: %w", net.IP(r.GetDestination()), r.GetDestinationLength(), err)
			}
		}
	}
	for _, n := range gone.GetNeighbours() {
		if i, err := index(n.GetInterface()); err == nil {
			if err := c.delete(unix.RTM_DELNEIGH, neighbourMessage(i, n)); err != nil {
				return fmt.Errorf("remove neighbour %s: %w", net.IP(n.GetIp()), err)
			}
		}
	}
	for _, i := range gone.GetInterfaces() {
		n, err := index(i.GetName())
		if err != nil {
			continue
		}
		for _, a := range i.GetAddresses() {
			if err := c.delete(unix.RTM_DELADDR, addressMessage(n, a)); err != nil {
				return fmt.Errorf("remove address %s/%d: %w", net.IP(a.GetIp()), a.GetLength(), err)
			}
		}
	}
	return nil
}

func (c *conn) delete(kind uint16, r request) error {
	err := c.do(kind, 0, r)
	for _, gone := range []error{unix.ESRCH, unix.ENOENT, unix.EADDRNOTAVAIL, unix.ENODEV} {
		if errors.Is(err, gone) {
			return nil
		}
	}
	return err
}
