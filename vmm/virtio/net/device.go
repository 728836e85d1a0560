// Package net is the virtio network device (virtio 1.2 §5.1) on a tap device of the host: a pair of queues for each
// queue of the tap, and with several of them a control queue, by which the driver says how many it uses.
//
// This process carries the packets, or the host's kernel does, by vhost-net.
//
// Checksums and segmentation are left to whoever does them best: the header of each packet passes between guest
// and tap, after a check that the guest asks only for what it has negotiated. Packets are lost rather than
// waited for on the way out, as on any network.
package net

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"

	"github.com/huskvm/husk/vmm/vhost"
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
	// Kernel is vhost-net, open once for each of the Taps, or nothing. It is the device's like those.
	Kernel []*vhost.Net
	MAC    net.HardwareAddr // the guest's address
	MTU    uint16           // 0 leaves it to the guest
}

// Device is a network device. Close releases the tap.
type Device struct {
	links   []*link // one a pair; those behind the driver's number of pairs are detached
	kernel  *kernel // nil when this process carries the packets
	mac     [6]byte
	mtu     uint16
	workers virtio.Workers
}

// New sets the tap's header format and makes a device of it.
func New(cfg Config) (*Device, error) {
	for _, tap := range cfg.Taps {
		defer tap.Close()
	}
	d, err := open(cfg)
	if err != nil {
		for _, n := range cfg.Kernel {
			_ = n.Close()
		}
		return nil, err
	}
	if len(cfg.Kernel) > 0 {
		d.kernel = newKernel(cfg.Kernel, d.links)
	}
	return d, nil
}

// open makes a device that carries its packets itself.
func open(cfg Config) (*Device, error) {
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
	if err := d.links[0].offload(a.Features); err != nil {
		return err
	}
	pairs := pairsOf(a.Features, len(d.links))
	lent := d.lend(a, pairs)
	if err := d.use(1); err != nil {
		return err
	}
	for i, l := range d.links[:pairs] {
		if lent {
			break
		}
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

// lend has the kernel serve the pairs, where it can. What it can't do once it is not asked for again.
func (d *Device) lend(a *virtio.Activation, pairs int) bool {
	if d.kernel == nil {
		return false
	}
	err := d.kernel.serve(a, pairs)
	if err == nil {
		err = d.kernel.use(1)
	}
	if err == nil {
		return true
	}
	slog.Warn("network interface without vhost-net", "tap", d.links[0].name, "error", err)
	_ = d.kernel.reset()
	_ = d.kernel.close()
	d.kernel = nil
	return false
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
	if err := d.attach(d.links[:pairs], true); err != nil {
		return err
	}
	if d.kernel != nil {
		if err := d.kernel.use(pairs); err != nil {
			return err
		}
	}
	return d.attach(d.links[pairs:], false)
}

func (d *Device) attach(links []*link, on bool) error {
	for _, l := range links {
		if err := l.attach(on); err != nil {
			return fmt.Errorf("tap %s: %w", l.name, err)
		}
	}
	return nil
}

// Pause returns once the kernel touches nothing of the guest's. What this process carries goes on.
func (d *Device) Pause() error {
	if d.kernel == nil {
		return nil
	}
	return d.kernel.pause()
}

// Resume undoes Pause.
func (d *Device) Resume() error {
	if d.kernel == nil {
		return nil
	}
	return d.kernel.resume()
}

// Reset implements virtio.Device.
func (d *Device) Reset() error {
	var errs []error
	for _, l := range d.links {
		errs = append(errs, l.cancel())
	}
	d.workers.Stop()
	if d.kernel != nil {
		errs = append(errs, d.kernel.reset())
	}
	return errors.Join(errs...)
}

// Close releases the tap, after the last Reset. The interface goes with its last descriptor, unless persistent.
func (d *Device) Close() error {
	var errs []error
	if d.kernel != nil {
		errs = append(errs, d.kernel.close())
	}
	for _, l := range d.links {
		errs = append(errs, l.close())
	}
	return errors.Join(errs...)
}
