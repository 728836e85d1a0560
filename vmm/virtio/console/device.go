// Package console is the virtio console device (virtio 1.2 §5.3) with one port.
//
// Everything the guest writes goes into a Ring, for the error that reports a guest's death, and when asked to a
// live writer too. Neither lets a reader of ours stop the guest: a slow live reader loses bytes.
package console

import (
	"io"
	"sync"

	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/queue"
)

const queueSize = 64

// Config says where a console's bytes go to and come from.
type Config struct {
	Ring    *Ring     // gets all output; nil is a ring that nobody sees
	Output  io.Writer // gets the output live; may be nil
	Input   io.Reader // what the guest reads; may be nil
	Columns uint16    // of the terminal; zero is unknown
	Rows    uint16
}

// Device is the console device. Close releases what outlives a reset.
type Device struct {
	ring    *Ring
	live    *live  // nil without Output
	input   *input // nil without Input
	workers virtio.Workers

	quit  chan struct{} // tells the workers to end; made by Activate
	piece []byte        // input that is still to be delivered; the receive worker's

	mu        sync.Mutex
	columns   uint16
	rows      uint16
	transport virtio.Transport // nil while inactive
}

// New returns a device. It begins to read Input at once, no more than a piece ahead of the guest.
func New(cfg Config) *Device {
	d := &Device{ring: cfg.Ring, columns: cfg.Columns, rows: cfg.Rows}
	if d.ring == nil {
		d.ring = new(Ring)
	}
	if cfg.Output != nil {
		d.live = newLive(cfg.Output)
	}
	if cfg.Input != nil {
		d.input = newInput(cfg.Input)
	}
	return d
}

// ID implements virtio.Device.
func (d *Device) ID() virtio.ID { return virtio.Console }

// Features implements virtio.Device.
func (d *Device) Features() uint64 { return featureSize }

// Queues implements virtio.Device.
func (d *Device) Queues() []uint16 {
	return []uint16{receiveQueue: queueSize, transmitQueue: queueSize}
}

// ReadConfig implements virtio.Device.
func (d *Device) ReadConfig(p []byte, off uint32) {
	d.mu.Lock()
	space := configBytes(d.columns, d.rows)
	d.mu.Unlock()
	virtio.ReadConfigBytes(space[:], p, off)
}

// WriteConfig implements virtio.Device. Nothing in it is the driver's to write without MULTIPORT's emergency write.
func (d *Device) WriteConfig([]byte, uint32) {}

// Resize tells the guest that its terminal has a new size. At any time.
func (d *Device) Resize(columns, rows uint16) {
	d.mu.Lock()
	d.columns, d.rows = columns, rows
	t := d.transport
	d.mu.Unlock()
	if t != nil {
		t.ConfigChanged()
	}
}

// Activate implements virtio.Device.
func (d *Device) Activate(a *virtio.Activation) error {
	d.setTransport(a.Transport)
	quit := make(chan struct{})
	d.quit = quit
	d.workers.Serve(a.Queues[transmitQueue], a.Transport, func(c *queue.Chain) error { return d.transmit(c, quit) })
	if rx := a.Queues[receiveQueue]; rx != nil && d.input != nil {
		d.workers.Go(rx, a.Transport, func() error { return d.receive(rx, quit) })
	}
	return nil
}

// Reset implements virtio.Device.
func (d *Device) Reset() error {
	d.setTransport(nil)
	if d.quit != nil {
		close(d.quit)
		d.quit = nil
	}
	d.workers.Stop()
	return nil
}

// Close, after the last Reset, gives Output what is still waiting, for two seconds at most, and lets go of Input
// and Output, which stay the caller's.
func (d *Device) Close() error {
	if d.live != nil {
		d.live.close()
	}
	if d.input != nil {
		d.input.close()
	}
	return nil
}

func (d *Device) setTransport(t virtio.Transport) {
	d.mu.Lock()
	d.transport = t
	d.mu.Unlock()
}
