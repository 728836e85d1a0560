// Package virtio is the contract between a device and the transport that a guest finds it on (virtio 1.2).
//
// A device knows its queues, features and configuration space; it doesn't know registers, interrupts lines or
// where it sits in the address space. A transport (mmio, vhostuser) knows those and nothing of devices. So one
// device serves every backend.
//
// Ownership moves at activation: the transport hands the queues over, and has them back once Reset returns.
package virtio

import (
	"github.com/huskvm/husk/vmm/memory"
	"github.com/huskvm/husk/vmm/virtio/queue"
)

// ID is a device type (virtio 1.2 §5).
type ID uint32

const (
	Net     ID = 1
	Block   ID = 2
	Console ID = 3
	Entropy ID = 4
	Balloon ID = 5
	Vsock   ID = 19
	FS      ID = 26
)

// Feature bits that don't belong to one device (virtio 1.2 §6).
const (
	FeatureIndirectDesc uint64 = 1 << 28
	FeatureEventIdx     uint64 = 1 << 29
	FeatureVersion1     uint64 = 1 << 32
)

// TransportFeatures are offered for every device, by the transport.
const TransportFeatures = FeatureIndirectDesc | FeatureEventIdx | FeatureVersion1

// GuestError is an offence of the driver against the specification. A device that meets one hands it to
// Activation.Fail and stops the queue it came from.
type GuestError = queue.GuestError

// Device is one virtio device. The transport makes one call at a time.
type Device interface {
	ID() ID
	// Features are the bits of the device's own; the transport adds TransportFeatures.
	Features() uint64
	// Queues gives the maximum size of each queue.
	Queues() []uint16
	// ReadConfig fills p from offset off of the configuration space; zeroes beyond its end.
	ReadConfig(p []byte, off uint32)
	// WriteConfig takes p at offset off; what is read-only or beyond the end is ignored.
	WriteConfig(p []byte, off uint32)
	// Activate starts the device: the driver has set DRIVER_OK. An error puts it in need of a reset.
	Activate(*Activation) error
	// Reset stops all workers, waits for them and drops the queues. Idempotent; the device can be activated again.
	Reset() error
}

// Activation is what a device owns from Activate to Reset.
type Activation struct {
	Features uint64 // as negotiated
	Memory   *memory.Space
	// Queues are in the order of Device.Queues; nil is one the driver left disabled.
	Queues    []*Virtqueue
	Transport Transport
}

// Transport is what a device may ask of whatever carries it. Safe for concurrent use.
type Transport interface {
	// ConfigChanged tells the driver that the configuration space has changed.
	ConfigChanged()
	// Fail tells the driver that the device needs a reset (virtio 1.2 §2.1.2), and logs why.
	Fail(err error)
}
