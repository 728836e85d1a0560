package machine

import (
	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/balloon"
	"github.com/huskvm/husk/vmm/virtio/blk"
	"github.com/huskvm/husk/vmm/virtio/console"
	"github.com/huskvm/husk/vmm/virtio/fs"
	"github.com/huskvm/husk/vmm/virtio/net"
	"github.com/huskvm/husk/vmm/virtio/rng"
	"github.com/huskvm/husk/vmm/virtio/vsock"
)

// createDevices makes the devices that the hypervisor does not bring, in the order in which the guest finds them.
func (m *Machine) createDevices(cfg *Config) error {
	// What is given to a device is closed with it; what is left at an error is closed here.
	shares, disks, nics := cfg.Shares, cfg.Disks, cfg.NICs
	defer func() {
		for _, s := range shares {
			_ = s.File.Close()
		}
		for _, d := range disks {
			_ = d.File.Close()
		}
		for _, n := range nics {
			n.close()
		}
	}()

	if !m.hypervisor.has(virtio.Console) {
		c := console.New(console.Config{Ring: m.console, Output: cfg.Console, Input: cfg.Input})
		m.closers = append(m.closers, c.Close)
		if err := m.hypervisor.attach(c); err != nil {
			return err
		}
	}
	if cfg.Vsock != nil {
		m.vsock = vsock.New(vsock.Config{GuestCID: cfg.Vsock.GuestCID, Host: cfg.Vsock.Host})
		if err := m.hypervisor.attach(m.vsock); err != nil {
			return err
		}
	}
	var err error
	if m.shares, err = fs.New(fs.Config{Tag: ShareTag}); err != nil {
		return err
	}
	m.closers = append(m.closers, m.shares.Close)
	for len(shares) > 0 {
		s := shares[0]
		shares = shares[1:]
		if err := m.AddShare(s); err != nil {
			return err
		}
	}
	if err := m.hypervisor.attach(m.shares); err != nil {
		return err
	}
	for _, d := range []virtio.Device{rng.New(), balloon.New()} {
		if m.hypervisor.has(d.ID()) {
			continue
		}
		if err := m.hypervisor.attach(d); err != nil {
			return err
		}
	}
	queues := min(cfg.VCPUs, 4)
	for len(disks) > 0 {
		d := disks[0]
		disks = disks[1:]
		device, err := blk.New(blk.Config{File: d.File, ReadOnly: d.ReadOnly, Serial: d.Serial, Queues: queues})
		if err != nil {
			return err
		}
		m.closers = append(m.closers, device.Close)
		if err := m.hypervisor.attach(device); err != nil {
			return err
		}
	}
	for len(nics) > 0 {
		n := nics[0]
		nics = nics[1:]
		if m.hypervisor.has(virtio.Net) {
			if err := m.hypervisor.attachNIC(n); err != nil {
				return err
			}
			continue
		}
		device, err := net.New(net.Config{Taps: n.Taps, Kernel: openVhost(cfg, len(n.Taps)), MAC: n.MAC, MTU: n.MTU})
		if err != nil {
			return err
		}
		m.closers = append(m.closers, device.Close)
		if err := m.hypervisor.attach(device); err != nil {
			return err
		}
	}
	for range min(cfg.SpareDisks, m.hypervisor.room()) {
		device, err := blk.NewSpare(queues)
		if err != nil {
			return err
		}
		m.closers = append(m.closers, device.Close)
		m.late.spare = append(m.late.spare, device)
		if err := m.hypervisor.attach(device); err != nil {
			return err
		}
	}
	return nil
}
