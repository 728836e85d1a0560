package machine

import (
	"github.com/huskvm/husk/vmm/backend"
)

// Choose fills in what the guest runs on. On error the configuration's files are closed.
func Choose(cfg *Config, w backend.Wish) (backend.Choice, error) {
	c, err := backend.Choose(w)
	if err == nil {
		if c.Kind == backend.KVM {
			cfg.KVM, err = w.OpenKVM()
		} else {
			cfg.QEMU = &QEMU{Binary: c.QEMU, Accelerated: c.Accelerated}
		}
	}
	if err != nil {
		cfg.close()
	}
	return c, err
}
