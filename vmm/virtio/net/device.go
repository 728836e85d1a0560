// Package net is the virtio network device (virtio 1.2 §5.1) on a tap device of the host: one pair of queues, no
// control queue.
//
// Checksums and segmentation are left to whoever does them best: the header of each packet passes between guest
// and tap, after a check that the guest asks only for what it has negotiated. Packets are lost rather than
// waited for on the way out, as on any network.
package net

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/queue"
)

const (
	queueSize = 256
	minMTU    = 68 // §5.1.4.1
)

// Config describes a network interface.
type Config struct {
	// Tap is attached to its interface, with IFF_VNET_HDR. It belongs to the device from New on, even if New fails.
	Tap *os.File
	MAC net.HardwareAddr // the guest's address
	MTU uint16           // 0 leaves it to the guest
}

// Device is a network device. Close releases the tap.
type Device struct {
	link    *link
	mac     [6]byte
	mtu     uint16
	workers virtio.Workers
}

// New sets the tap's header format and makes a device of it.
func New(cfg Config) (*Device, error) {
	if cfg.Tap == nil {
		return nil, errors.New("network interface without a tap")
	}
	defer cfg.Tap.Close()
	d, err := newDevice(cfg)
	if err != nil {
		return nil, fmt.Errorf("tap %s: %w", cfg.Tap.Name(), err)
	}
	if d.link, err = openTap(cfg.Tap); err != nil {
		return nil, fmt.Errorf("tap %s: %w", cfg.Tap.Name(), err)
	}
	return d, nil
}

// newDevice is all of a device but its link.
func newDevice(cfg Config) (*Device, error) {
	d := &Device{mtu: cfg.MTU}
	if len(cfg.MAC) != len(d.mac) || cfg.MAC[0]&1 != 0 {
		return nil, fmt.Errorf("%q is not the hardware address of an Ethernet interface", cfg.MAC)
	}
	if cfg.MTU != 0 && cfg.MTU < minMTU {
		return nil, fmt.Errorf("MTU %d is less than %d", cfg.MTU, minMTU)
	}
	copy(d.mac[:], cfg.MAC)
	return d, nil
}

// ID implements virtio.Device.
func (d *Device) ID() virtio.ID { return virtio.Net }

// Features implements virtio.Device.
func (d *Device) Features() uint64 {
	f := featureMAC | featureMrgRxbuf | featureCsum | featureGuestCsum |
		featureGuestTSO4 | featureGuestTSO6 | featureGuestECN | featureHostTSO4 | featureHostTSO6 | featureHostECN
	if d.mtu != 0 {
		f |= featureMTU
	}
	return f
}

// Queues implements virtio.Device.
func (d *Device) Queues() []uint16 {
	return []uint16{receiveQueue: queueSize, transmitQueue: queueSize}
}

// ReadConfig implements virtio.Device.
func (d *Device) ReadConfig(p []byte, off uint32) {
	space := configBytes(d.mac, d.mtu)
	virtio.ReadConfigBytes(space[:], p, off)
}

// WriteConfig implements virtio.Device.
func (d *Device) WriteConfig([]byte, uint32) {}

// Activate implements virtio.Device.
func (d *Device) Activate(a *virtio.Activation) error {
	if err := errors.Join(d.link.offload(a.Features), d.link.rearm()); err != nil {
		return err
	}
	if rx := a.Queues[receiveQueue]; rx != nil {
		r := &receiver{link: d.link, vq: rx, features: a.Features}
		d.workers.Go(rx, a.Transport, r.run)
	}
	t := &transmitter{link: d.link, features: a.Features}
	d.workers.Serve(a.Queues[transmitQueue], a.Transport, func(c *queue.Chain) error { return t.send(c) })
	return nil
}

// Reset implements virtio.Device.
func (d *Device) Reset() error {
	err := d.link.cancel()
	d.workers.Stop()
	return err
}

// Close releases the tap, after the last Reset. The interface goes with its last descriptor, unless persistent.
func (d *Device) Close() error { return d.link.close() }
