// Package virtiofs is the virtio file system device (virtio 1.2 §5.11): FUSE over virtqueues, with one shared file system
// whose root holds the shares by name.
//
// The device moves requests between the rings and the file system; what a request does is package passthrough's.
// The guest is hostile: requests are copied before they are parsed, all but the data of a write.
package virtiofs

import (
	"fmt"
	"os"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/virtiofs/passthrough"
)

const (
	maxTag = 36 // bytes (§5.11.4)

	queueSize = 512
	// A request's data is at most this, whatever the queue would hold.
	maxWrite = 1 << 20
)

// Config describes the device.
type Config struct {
	Tag     string // by which the guest mounts it
	Queues  int    // request queues; 0 is 1
	Workers int    // requests in work at the same time; 0 is 16
}

// Device is the file system device. Close lets go of the shares.
type Device struct {
	cfg     Config
	space   [maxTag + 4]byte
	files   *passthrough.FS
	server  *fuse.ProtocolServer
	slots   chan struct{} // one for each request in work
	pending sync.WaitGroup
	workers virtio.Workers
}

// New returns a device without shares.
func New(cfg Config) (*Device, error) {
	if cfg.Tag == "" || len(cfg.Tag) > maxTag {
		return nil, fmt.Errorf("file system tag %q: it must have 1 to %d bytes", cfg.Tag, maxTag)
	}
	cfg.Queues = max(cfg.Queues, 1)
	if cfg.Workers <= 0 {
		cfg.Workers = 16
	}
	files, err := passthrough.New()
	if err != nil {
		return nil, err
	}
	d := &Device{cfg: cfg, files: files, slots: make(chan struct{}, cfg.Workers)}
	copy(d.space[:], cfg.Tag)
	d.space[maxTag] = byte(cfg.Queues)
	d.server = newServer(files)
	return d, nil
}

// ID implements virtio.Device.
func (d *Device) ID() virtio.ID { return virtio.FS }

// Features implements virtio.Device: no notification queue.
func (d *Device) Features() uint64 { return 0 }

// Queues implements virtio.Device: hiprio, then the request queues (§5.11.2).
func (d *Device) Queues() []uint16 {
	sizes := make([]uint16, 1+d.cfg.Queues)
	for i := range sizes {
		sizes[i] = queueSize
	}
	return sizes
}

// ReadConfig implements virtio.Device (§5.11.4).
func (d *Device) ReadConfig(p []byte, off uint32) { virtio.ReadConfigBytes(d.space[:], p, off) }

// WriteConfig implements virtio.Device.
func (d *Device) WriteConfig([]byte, uint32) {}

// Activate implements virtio.Device.
func (d *Device) Activate(a *virtio.Activation) error {
	for _, q := range a.Queues {
		d.serve(q, a.Transport)
	}
	return nil
}

// Reset implements virtio.Device. It waits for the requests in work, and forgets what the guest had open.
func (d *Device) Reset() error {
	d.workers.Stop()
	d.pending.Wait()
	d.files.ForgetAll()
	d.server = newServer(d.files)
	return nil
}

// Close lets go of all shares, after the last Reset.
func (d *Device) Close() error { return d.files.Close() }

// AddShare makes a directory or file, given by an O_PATH descriptor that belongs to the device from then on, appear
// under a name in the root. At any time.
func (d *Device) AddShare(name string, f *os.File, readOnly bool) error {
	return d.files.AddShare(name, f, readOnly)
}

// RemoveShare takes a share's name away. What the guest has open of it stays usable until it lets go.
func (d *Device) RemoveShare(name string) error { return d.files.RemoveShare(name) }
