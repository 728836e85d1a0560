// Package vsock is the virtio socket device (virtio 1.2 §5.10): AF_VSOCK streams of a guest, which end in unix
// sockets of the host.
//
// In three layers: the rings (worker.go, inbound.go, outbound.go), the state of one connection without any I/O
// (stream.go, credit.go), and the host's side (mux.go, unix.go, listener.go). The machine makes one per guest.
//
// The guest is hostile: everything it can make the device hold is bounded (mux.go), a connection that breaks the
// rules is reset, and a slow end of one connection never holds up another. What an honest guest has sent before it
// closes reaches the host in full, and what the host has written before it closes reaches the guest.
package vsock

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/huskvm/husk/vmm/virtio"
)

const queueSize = 256

// Queues, in their order (§5.10.2).
const (
	rxQueue = iota
	txQueue
	eventQueue
)

// Errors of Connect.
var (
	// ErrInactive means that the guest has no driver for the device, or not yet.
	ErrInactive = errors.New("vsock: the guest has not activated the device")
	// ErrRefused means that nobody listens in the guest, or that there are too many connections.
	ErrRefused = errors.New("vsock: connection refused by the guest")
)

// Host takes the connections that a guest makes to the host.
type Host interface {
	// Dial connects to the host's port. It returns soon after ctx is done. The connection is the device's then.
	Dial(ctx context.Context, port uint32) (Conn, error)
}

// Config is fixed for the life of a device.
type Config struct {
	GuestCID uint64 // at least 3
	Host     Host
}

// Device is the virtio socket device.
type Device struct {
	cfg   Config
	space [8]byte // struct virtio_vsock_config

	mu  sync.Mutex
	mux *mux // nil while inactive
}

// New returns a device.
func New(cfg Config) *Device {
	d := &Device{cfg: cfg}
	binary.LittleEndian.PutUint64(d.space[:], cfg.GuestCID)
	return d
}

// ID implements virtio.Device.
func (d *Device) ID() virtio.ID { return virtio.Vsock }

// Features implements virtio.Device. Streams need no bit (§5.10.3), and there is nothing else.
func (d *Device) Features() uint64 { return 0 }

// Queues implements virtio.Device: rx, tx, event. Events are never sent: a device that is reset loses all.
func (d *Device) Queues() []uint16 { return []uint16{queueSize, queueSize, queueSize} }

// ReadConfig implements virtio.Device.
func (d *Device) ReadConfig(p []byte, off uint32) { virtio.ReadConfigBytes(d.space[:], p, off) }

// WriteConfig implements virtio.Device.
func (d *Device) WriteConfig([]byte, uint32) {}

// Activate implements virtio.Device.
func (d *Device) Activate(a *virtio.Activation) error {
	if len(a.Queues) < eventQueue || a.Queues[rxQueue] == nil || a.Queues[txQueue] == nil {
		return fmt.Errorf("activate vsock: rx or tx queue is disabled")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mux = newMux(d.cfg.GuestCID, d.cfg.Host)
	d.mux.start(a)
	return nil
}

// Reset implements virtio.Device. All connections are closed.
func (d *Device) Reset() error {
	d.mu.Lock()
	m := d.mux
	d.mux = nil
	d.mu.Unlock()
	if m != nil {
		m.stop()
	}
	return nil
}

// Close is Reset: nothing else is held.
func (d *Device) Close() error { return d.Reset() }

// Connect connects host to a port of the guest, and returns when the guest has answered or ctx is done. accepted
// is called with the host's port when the guest accepts, before any byte of the guest's moves; its error resets the connection.
// host is the device's: it is closed sooner or later, whatever Connect returns.
func (d *Device) Connect(ctx context.Context, host Conn, port uint32, accepted func(hostPort uint32) error) error {
	d.mu.Lock()
	m := d.mux
	d.mu.Unlock()
	if m == nil {
		_ = host.Close()
		return ErrInactive
	}
	return m.connect(ctx, host, port, accepted)
}
