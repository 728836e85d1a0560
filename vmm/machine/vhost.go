package machine

import (
	"github.com/huskvm/husk/vmm/vhost"
)

// openVhost opens the host kernel's half of a network interface, for each queue of its tap; nothing when there is none,
// which is said once.
func openVhost(cfg *Config, queues int) (nets []*vhost.Net) {
	if !cfg.VhostNet {
		return nil
	}
	for range queues {
		n, err := vhost.Open()
		if err != nil {
			cfg.Log.Info("the VMM carries the guest's packets itself", "error", err)
			cfg.VhostNet = false
			for _, n := range nets {
				_ = n.Close()
			}
			return nil
		}
		nets = append(nets, n)
	}
	return nets
}
