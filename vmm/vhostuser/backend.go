// Package vhostuser is virtio over vhost-user: the back end of one device, whose transport is another program's. QEMU,
// the front end, shows the guest an interface for the device, and hands over guest memory, rings and notifications
// as descriptors; the rings are served here.
//
// Specification: QEMU's "Vhost-user Protocol" (docs/interop/vhost-user.rst), for split rings of virtio 1 without
// live migration.
//
// A session is one connection. It holds what the front end has set; the device behind it runs exactly while that
// is complete, and is reset otherwise (session.wanted). A front end that breaks the protocol loses its connection;
// what the guest behind it can cause by itself, such as a ring that is nowhere, only leaves the device in need of a
// reset. The front end is trusted not to shrink the memory it has handed over: touching what is gone kills the process.
package vhostuser

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"

	"github.com/huskvm/husk/vmm/virtio"
)

// Errors of Serve that say nothing about the front end.
var (
	ErrBusy   = errors.New("vhost-user: another front end is connected")
	ErrClosed = errors.New("vhost-user: the back end is closed")
)

// maxRings is what the ring index of a kick can tell apart.
const maxRings = 256

// Config is fixed for the life of a back end. Device and Log are required.
type Config struct {
	Device virtio.Device
	Log    *slog.Logger
	// Queues is how many of the device's queues, from the first on, the front end hands over; 0 is all. The device
	// finds the others disabled. QEMU keeps the event queue of a vsock device to itself, so there it is 2.
	Queues int
	// OwnConfig means that the front end has a configuration space of its own and doesn't want the device's: QEMU's
	// file system device, which complains about a back end that offers one.
	OwnConfig bool
}

// Backend serves one device to one front end at a time.
type Backend struct {
	cfg Config

	mu     sync.Mutex
	conn   *net.UnixConn // of the front end that is served
	done   chan struct{} // closed once it isn't any more
	closed bool
}

// New returns a back end without a front end. The device is the back end's until Close.
func New(cfg Config) (*Backend, error) {
	all := len(cfg.Device.Queues())
	if cfg.Queues == 0 {
		cfg.Queues = all
	}
	if cfg.Queues < 1 || cfg.Queues > min(all, maxRings) {
		return nil, fmt.Errorf("vhost-user: %d rings for a device of %d queues: 1 to %d are possible",
			cfg.Queues, all, min(all, maxRings))
	}
	return &Backend{cfg: cfg}, nil
}

// Serve serves the front end at conn until it goes or Close is called, which both give nil, or until it breaks the
// protocol. Afterwards the device is reset, conn closed, and nothing of the front end's is mapped or open; Serve
// can be called again.
func (b *Backend) Serve(conn *net.UnixConn) error {
	defer conn.Close()
	done, err := b.begin(conn)
	if err != nil {
		return err
	}
	defer close(done)
	s := newSession(b.cfg, conn)
	err = errors.Join(s.run(), s.end())
	b.mu.Lock()
	b.conn = nil
	b.mu.Unlock()
	return err
}

func (b *Backend) begin(conn *net.UnixConn) (done chan struct{}, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return nil, ErrClosed
	case b.conn != nil:
		return nil, ErrBusy
	}
	b.conn, b.done = conn, make(chan struct{})
	return b.done, nil
}

// Close ends Serve and waits for it. The device is reset then. Idempotent.
func (b *Backend) Close() error {
	b.mu.Lock()
	b.closed = true
	if b.conn != nil {
		_ = b.conn.Close()
	}
	done := b.done
	b.mu.Unlock()
	if done != nil {
		<-done
	}
	return b.cfg.Device.Reset()
}
