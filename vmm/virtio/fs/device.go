// Package fs is the virtio file system device (virtio 1.2 §5.11): FUSE over virtqueues.
//
// The guest mounts it once, by its tag, and finds the shares by name in its root. Shares come and go while it
// runs. What a request does, and why a guest can't get out of its shares, is in package passthrough; this one
// carries requests from the rings to it, several at a time.
package fs

import (
	"encoding/binary"
	"fmt"
	"os"

	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/fs/passthrough"
)

const (
	maxTag    = 36 // virtio 1.2 §5.11.4
	maxQueues = 64

	hiprioSize = 256
	// requestSize lets a guest without indirect descriptors send 1 MiB at once: its kernel takes the queue's size
	// less four as the most pages of a request.
	requestSize = 512

	defaultWorkers = 8
)

// Config is what a device is made from.
type Config struct {
	Tag     string // what the guest mounts; 1 to 36 bytes
	Queues  int    // request queues; 0 is 1
	Workers int    // requests in progress at a time, of each queue; 0 is 8
}

// Device is a virtio.Device. AddShare and RemoveShare may be called at any time, before Activate too. Shares
// outlive a Reset, and end with Close.
type Device struct {
	server  *passthrough.Server
	config  [maxTag + 4]byte
	queues  int
	pool    int
	workers virtio.Workers
}

// New returns a device without shares. The process must still see /proc, its umask becomes 0, and its limit of
// descriptors bounds how much a guest can cache: see passthrough.New.
func New(cfg Config) (*Device, error) {
	queues, pool := max(cfg.Queues, 1), cfg.Workers
	if pool <= 0 {
		pool = defaultWorkers
	}
	switch {
	case cfg.Tag == "" || len(cfg.Tag) > maxTag:
		return nil, fmt.Errorf("virtio-fs tag %q: it needs 1 to %d bytes", cfg.Tag, maxTag)
	case queues > maxQueues:
		return nil, fmt.Errorf("virtio-fs with %d queues: at most %d", queues, maxQueues)
	}
	server, err := passthrough.New()
	if err != nil {
		return nil, fmt.Errorf("virtio-fs: %w", err)
	}
	d := &Device{server: server, queues: queues, pool: pool}
	copy(d.config[:], cfg.Tag)
	binary.LittleEndian.PutUint32(d.config[maxTag:], uint32(queues))
	return d, nil
}

// AddShare makes dir, an O_PATH descriptor of a directory or of exactly one file, appear as name in the root.
// dir is the device's from now on, also when there is an error. Changes by the host are seen within a second.
func (d *Device) AddShare(name string, dir *os.File, readOnly bool) error {
	return d.AddShareWith(name, dir, passthrough.Options{ReadOnly: readOnly})
}

// AddShareWith is AddShare with a say in what the guest may cache.
func (d *Device) AddShareWith(name string, dir *os.File, opt passthrough.Options) error {
	return d.server.AddShare(name, dir, opt)
}

// RemoveShare takes a share away, in use or not. Afterwards no descriptor of it is open.
func (d *Device) RemoveShare(name string) error { return d.server.RemoveShare(name) }

// Crowded receives when the guest should forget what it does not use: descriptors run short.
func (d *Device) Crowded() <-chan struct{} { return d.server.Crowded() }

// ID implements virtio.Device.
func (d *Device) ID() virtio.ID { return virtio.FS }

// Features implements virtio.Device: there is no notification queue.
func (d *Device) Features() uint64 { return 0 }

// Queues implements virtio.Device: the high priority queue, then the request queues (virtio 1.2 §5.11.2).
func (d *Device) Queues() []uint16 {
	sizes := []uint16{hiprioSize}
	for range d.queues {
		sizes = append(sizes, requestSize)
	}
	return sizes
}

// ReadConfig implements virtio.Device (virtio 1.2 §5.11.4).
func (d *Device) ReadConfig(p []byte, off uint32) { virtio.ReadConfigBytes(d.config[:], p, off) }

// WriteConfig implements virtio.Device: there is nothing to write.
func (d *Device) WriteConfig([]byte, uint32) {}

// Activate implements virtio.Device.
func (d *Device) Activate(a *virtio.Activation) error {
	for i, vq := range a.Queues {
		if vq == nil {
			continue
		}
		if i == 0 {
			d.serveHiprio(vq, a.Transport)
		} else {
			d.serveRequests(vq, a.Transport)
		}
	}
	return nil
}

// Reset implements virtio.Device. The guest's files are closed, its locks gone with its kernel.
func (d *Device) Reset() error {
	d.workers.Stop()
	d.server.Reset()
	return nil
}

// Close resets the device and lets go of all shares. It can't be used again.
func (d *Device) Close() error {
	if err := d.Reset(); err != nil {
		return err
	}
	return d.server.Close()
}
