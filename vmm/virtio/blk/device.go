// Package blk is the virtio block device (virtio 1.2 §5.2) on a regular file or a block device of the host.
//
// Requests are carried out by the host's page cache with preadv and pwritev straight on the guest's memory,
// several at a time. A request that breaks the rules for requests is answered with a status; one that can't even
// be answered is an offence. Nothing outside of [0, capacity) of the file is ever touched.
package blk

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/huskvm/husk/vmm/virtio"
)

const (
	queueSize = 256
	maxQueues = 64
)

// Config describes a disk.
type Config struct {
	File     *os.File // belongs to the device from New on, even if New fails
	ReadOnly bool     // File may be open for reading only then
	Serial   string   // up to 20 bytes, by which the guest finds the disk; may be empty
	Queues   int      // the guest uses one per vCPU at most; 0 is 1
}

// Device is a block device. Close releases the file.
type Device struct {
	config   config
	readOnly bool // for good
	workers  virtio.Workers

	media     sync.RWMutex // held for reading while a request is carried out
	disk      *disk        // that of a spare device without one has no file
	transport virtio.Transport
}

// New looks at the file and makes a device of it. Its size then is the disk's, in whole sectors of 512 bytes.
func New(cfg Config) (*Device, error) {
	d, err := openDisk(cfg)
	if err != nil {
		return nil, err
	}
	return newDevice(d, cfg.Queues, cfg.ReadOnly)
}

func newDevice(d *disk, queues int, readOnly bool) (*Device, error) {
	queues = max(queues, 1)
	if queues > maxQueues {
		return nil, errors.Join(fmt.Errorf("%d queues are more than %d", queues, maxQueues), d.close())
	}
	return &Device{
		disk: d, readOnly: readOnly,
		config: config{blockSize: d.blockSize, physical: d.physical, segMax: queueSize - 2, queues: uint16(queues)},
	}, nil
}

// ID implements virtio.Device.
func (d *Device) ID() virtio.ID { return virtio.Block }

// Features implements virtio.Device.
func (d *Device) Features() uint64 {
	f := featureSegMax | featureBlkSize | featureFlush | featureTopology
	if d.config.queues > 1 {
		f |= featureMQ
	}
	if d.readOnly {
		return f | featureRO
	}
	return f | featureDiscard | featureWriteZeroes
}

// Queues implements virtio.Device.
func (d *Device) Queues() []uint16 {
	q := make([]uint16, d.config.queues)
	for i := range q {
		q[i] = queueSize
	}
	return q
}

// ReadConfig implements virtio.Device.
func (d *Device) ReadConfig(p []byte, off uint32) {
	d.media.RLock()
	space := d.config.bytes(d.disk.sectors)
	d.media.RUnlock()
	virtio.ReadConfigBytes(space[:], p, off)
}

// WriteConfig implements virtio.Device.
func (d *Device) WriteConfig([]byte, uint32) {}

// Activate implements virtio.Device.
func (d *Device) Activate(a *virtio.Activation) error {
	d.setTransport(a.Transport)
	for _, vq := range a.Queues {
		d.serve(vq, a)
	}
	return nil
}

// Reset implements virtio.Device. It waits for the requests in flight; no write happens after it.
func (d *Device) Reset() error {
	d.setTransport(nil)
	d.workers.Stop()
	return nil
}

func (d *Device) setTransport(t virtio.Transport) {
	d.media.Lock()
	defer d.media.Unlock()
	d.transport = t
}

// Close releases the file, after the last Reset. It does not flush: what the guest wants on stable storage it
// says.
func (d *Device) Close() error { return d.disk.close() }
