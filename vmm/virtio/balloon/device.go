// Package balloon is the traditional memory balloon (virtio 1.2 §5.5): the way for guest memory back to the host.
//
// Mostly by itself: with free page reporting the driver names memory it has freed, as it goes, and the device
// gives it back. The balloon proper takes memory from the guest on demand, and yields to the guest's OOM killer.
// Only ranges the guest named are ever given back, and whatever it names wrongly is its own loss: all of the
// device's reach is guest memory.
package balloon

import (
	"encoding/binary"
	"sync"

	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/queue"
)

// queueSize must be at least 32 for the reporting queue, or Linux does without it.
const queueSize = 128

// Device is the balloon device.
type Device struct {
	workers virtio.Workers

	mu        sync.Mutex
	config    config
	transport virtio.Transport // nil while inactive
}

// New returns a device with an empty balloon.
func New() *Device { return &Device{} }

// ID implements virtio.Device.
func (d *Device) ID() virtio.ID { return virtio.Balloon }

// Features implements virtio.Device. PAGE_POISON is there because Linux forgoes reporting without it when it
// initializes or poisons pages on free.
func (d *Device) Features() uint64 {
	return featureDeflateOnOOM | featurePagePoison | featureReporting
}

// Queues implements virtio.Device.
func (d *Device) Queues() []uint16 {
	return []uint16{inflateQueue: queueSize, deflateQueue: queueSize, reportingQueue: queueSize}
}

// ReadConfig implements virtio.Device.
func (d *Device) ReadConfig(p []byte, off uint32) {
	d.mu.Lock()
	space := d.config.bytes()
	d.mu.Unlock()
	virtio.ReadConfigBytes(space[:], p, off)
}

// WriteConfig implements virtio.Device: the driver writes actual and poison, each as a whole (§4.2.2.2).
func (d *Device) WriteConfig(p []byte, off uint32) {
	if len(p) != 4 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch v := binary.LittleEndian.Uint32(p); off {
	case actualOffset:
		d.config.actual = v
	case poisonOffset:
		d.config.poison = v
	}
}

// SetTarget asks the guest to give up that many pages of 4 KiB. At any time; the guest follows as it can.
func (d *Device) SetTarget(pages uint32) {
	d.mu.Lock()
	changed := d.config.target != pages
	d.config.target = pages
	t := d.transport
	d.mu.Unlock()
	if changed && t != nil {
		t.ConfigChanged()
	}
}

// Actual is how many pages of 4 KiB the guest says it has given up.
func (d *Device) Actual() uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.config.actual
}

// Activate implements virtio.Device.
func (d *Device) Activate(a *virtio.Activation) error {
	d.mu.Lock()
	d.transport = a.Transport
	poison := d.config.poison // written before DRIVER_OK (§5.5.6.4)
	d.mu.Unlock()

	d.workers.Serve(a.Queues[inflateQueue], a.Transport, (&inflate{mem: a.Memory}).handle)
	d.workers.Serve(a.Queues[deflateQueue], a.Transport, deflate)
	if a.Features&featureReporting != 0 {
		give := a.Features&featurePagePoison == 0 || poison == 0
		d.workers.Serve(a.Queues[reportingQueue], a.Transport, func(c *queue.Chain) error { return report(c, give) })
	}
	return nil
}

// Reset implements virtio.Device. The target stays: it is ours. What the driver said is forgotten.
func (d *Device) Reset() error {
	d.workers.Stop()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.transport = nil
	d.config.actual, d.config.poison = 0, 0
	return nil
}
