package hostnet

import (
	"fmt"

	"github.com/vishvananda/netlink"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
)

// Count is what has gone over the interfaces that the guest has by now, as the host counts: received is what came for the
// guest. It does not ask the guest, which may say what it likes.
func (f *Follower) Count() (list []*agentv1.StatsResponse_Network, err error) {
	f.mu.Lock()
	interfaces := f.told.Interfaces
	f.mu.Unlock()
	if len(interfaces) == 0 {
		return nil, nil
	}
	err = inside(f.path, func(h *netlink.Handle) error {
		for _, i := range interfaces {
			link, err := h.LinkByName(i.Name)
			if gone(err) {
				continue
			}
			if err != nil {
				return fmt.Errorf("count what %s has passed on: %w", i.Name, err)
			}
			if s := link.Attrs().Statistics; s != nil {
				list = append(list, &agentv1.StatsResponse_Network{
					Name:    i.Name,
					RxBytes: s.RxBytes, RxPackets: s.RxPackets, RxErrors: s.RxErrors, RxDropped: s.RxDropped,
					TxBytes: s.TxBytes, TxPackets: s.TxPackets, TxErrors: s.TxErrors, TxDropped: s.TxDropped,
				})
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", f.path, err)
	}
	return list, nil
}
