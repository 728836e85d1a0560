// Package rng is the virtio entropy device (virtio 1.2 §5.4): it fills the guest's buffers from the host's
// random number generator, so that a guest's first getrandom doesn't wait for entropy of its own.
package rng

import (
	"github.com/huskvm/husk/vmm/virtio"
)

const queueSize = 64

// Device is the entropy device. It has no features and no configuration.
type Device struct {
	workers virtio.Workers
}

// New returns a device.
func New() *Device { return &Device{} }

// ID implements virtio.Device.
func (d *Device) ID() virtio.ID { return virtio.Entropy }

// Features implements virtio.Device.
func (d *Device) Features() uint64 { return 0 }

// Queues implements virtio.Device: requests (§5.4.2).
func (d *Device) Queues() []uint16 { return []uint16{queueSize} }

// ReadConfig implements virtio.Device.
func (d *Device) ReadConfig(p []byte, off uint32) { virtio.ReadConfigBytes(nil, p, off) }

// WriteConfig implements virtio.Device.
func (d *Device) WriteConfig([]byte, uint32) {}

// Activate implements virtio.Device.
func (d *Device) Activate(a *virtio.Activation) error {
	d.workers.Serve(a.Queues[0], a.Transport, fill)
	return nil
}

// Reset implements virtio.Device.
func (d *Device) Reset() error {
	d.workers.Stop()
	return nil
}
