// Package net is the virtio network device (virtio 1.2 §5.1) on a tap device of the host: a pair of queues for each
// queue of the tap, and with several of them a control queue, by which the driver says how many it uses.
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
	"slices"

	"github.com/huskvm/husk/vmm/virtio"
)

const (
	queueSize = 256
	minMTU    = 68 // §5.1.4.1

	// maxPairs is more than a tap has queues.
	maxPairs = 256
)

// Config describes a network interface.
type Config struct {
	// Taps are the queues of one tap, attached to its interface, with IFF_VNET_HDR, and with IFF_MULTI_QUEUE if there are
	// several. They belong to the device from New on, even if New fails.
	Taps []*os.File
	MAC  net.HardwareAddr // the guest's address
	MTU  uint16           // 0 leaves it to the guest
}

// Device is a network device. Close releases the tap.
type Device struct {
	links   []*link // one a pair; those behind the driver's number of pairs are detached
	mac     [6]byte
	mtu     uint16
	workers virtio.Workers
}

// New sets the tap's header format and makes a device of it.
func New(cfg Config) (*Device, error) {
	for _, tap := range cfg.Taps {
		defer tap.Close()
	}
	if len(cfg.Taps) == 0 || len(cfg.Taps) > maxPairs {
		return nil, fmt.Errorf("network interface with a tap of %d queues: it has at least one, and %d at most", len(cfg.Taps), maxPairs)
	}
	d, err := newDevice(cfg)
	if err != nil {
		return nil, fmt.Errorf("tap %s: %w", cfg.Taps[0].Name(), err)
	}
	for _, tap := range cfg.Taps {
		l, err := openTap(tap)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("tap %s: %w", tap.Name(), err), d.Close())
		}
		d.links = append(d.links, l)
	}
	if err := d.use(1); err != nil {
		return nil, errors.Join(err, d.Close())
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
	if len(d.links) > 1 {
		f |= featureCtrlVQ | featureMQ
	}
	return f
}

// Queues implements virtio.Device.
func (d *Device) Queues() []uint16 {
	sizes := slices.Repeat([]uint16{queueSize}, controlQueue(len(d.links)))
	if len(d.links) > 1 {
		sizes = append(sizes, controlSize)
	}
	return sizes
}

// ReadConfig implements virtio.Device.
func (d *Device) ReadConfig(p []byte, off uint32) {
	space := configBytes(d.mac, d.mtu, len(d.links))
	virtio.ReadConfigBytes(space[:], p, off)
}

// WriteConfig implements virtio.Device.
func (d *Device) WriteConfig([]byte, uint32) {}

// Activate implements virtio.Device. Of several pairs the driver uses one until it says otherwise.
func (d *Device) Activate(a *virtio.Activation) error {
	if err := d.use(1); err != nil {
		return err
	}
	if err := d.links[0].offload(a.Features); err != nil {
		return err
	}
	pairs := pairsOf(a.Features, len(d.links))
	for i, l := range d.links[:pairs] {
		if err := l.rearm(); err != nil {
			return err
		}
		if rx := a.Queues[receiveQueue(i)]; rx != nil {
			r := &receiver{link: l, vq: rx, features: a.Features}
			d.workers.Go(rx, a.Transport, r.run)
		}
		t := &transmitter{link: l, features: a.Features}
		d.workers.Serve(a.Queues[transmitQueue(i)], a.Transport, t.send)
	}
	if a.Features&featureCtrlVQ != 0 {
		c := &controller{use: d.use, most: ready(a.Queues, pairs)}
		d.workers.Serve(a.Queues[controlQueue(pairs)], a.Transport, c.handle)
	}
	return nil
}

// ready is how many pairs, from the first on, the driver has set up.
func ready(queues []*virtio.Virtqueue, pairs int) int {
	for i := range pairs {
		if queues[receiveQueue(i)] == nil || queues[transmitQueue(i)] == nil {
			return i
		}
	}
	return pairs
}

// use attaches the first pairs to the tap and detaches the others, so that the host steers nothing to a queue that
// nobody reads.
func (d *Device) use(pairs int) error {
	for i, l := range d.links {
		if err := l.attach(i < pairs); err != nil {
			return fmt.Errorf("tap %s: queue %d: %w", l.file.Name(), i, err)
		}
	}
	return nil
}

// Reset implements virtio.Device.
func (d *Device) Reset() error {
	var errs []error
	for _, l := range d.links {
		errs = append(errs, l.cancel())
	}
	d.workers.Stop()
	return errors.Join(errs...)
}

// Close releases the tap, after the last Reset. The interface goes with its last descriptor, unless persistent.
func (d *Device) Close() error {
	var errs []error
	for _, l := range d.links {
		errs = append(errs, l.close())
	}
	return errors.Join(errs...)
}
