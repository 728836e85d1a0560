package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"

	"github.com/huskvm/husk/vmm/virtio"
)

// featureProtocol among the virtio features says that protocol features can be negotiated.
const featureProtocol uint64 = 1 << 30

// Protocol features.
const (
	protocolMQ          uint64 = 1 << 0
	protocolReplyAck    uint64 = 1 << 3
	protocolBackendReq  uint64 = 1 << 5
	protocolConfig      uint64 = 1 << 9
	protocolResetDevice uint64 = 1 << 13
)

// session is all that one front end has set. One goroutine owns it; the device's own call what virtio.Transport
// has, and interrupt rings.
type session struct {
	device    virtio.Device
	log       *slog.Logger
	conn      *conn
	queues    int // the device's, of which the first have rings
	ownConfig bool

	features uint64
	protocol uint64
	memory   *table // nil: none yet
	rings    []ring // those that the front end hands over

	running bool    // the device is activated
	failed  bool    // it could not be; not to be tried again as things are
	upcall  donated // a socket
}

func newSession(cfg Config, c *net.UnixConn) *session {
	return &session{
		device: cfg.Device, log: cfg.Log.With("device", uint32(cfg.Device.ID())), conn: newConn(c),
		queues: len(cfg.Device.Queues()), ownConfig: cfg.OwnConfig, rings: make([]ring, cfg.Queues),
	}
}

// run serves requests until the front end goes, which is nil.
func (s *session) run() error {
	for {
		m, err := s.conn.read()
		if err == nil {
			err = s.serve(m)
			m.close()
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("vhost-user: %w", err)
		}
	}
}

// end resets the device and lets go of everything. Memory stays mapped if the device doesn't let go of it.
func (s *session) end() error {
	err := s.stop()
	if err == nil && s.memory != nil {
		err = s.memory.unmap()
	}
	for i := range s.rings {
		s.rings[i].close()
	}
	s.upcall.set(-1)
	return err
}

// wanted says whether what the front end has set is complete, so that the device should run.
//
// It is once all rings are enabled. A ring that was enabled without ever being started is one that the driver leaves
// unused; where enabling is not a message of its own, all must be started. The device's status is not asked for:
// QEMU 7.2 never says DRIVER_OK for a file system or a socket device.
func (s *session) wanted() bool {
	started := 0
	for i := range s.rings {
		switch r := &s.rings[i]; {
		case !r.enabled || r.stopped:
			return false
		case r.kick != nil:
			started++
		}
	}
	return started == len(s.rings) || started > 0 && s.features&featureProtocol != 0
}

// reconcile starts or stops the device as wanted. The error is the device's, that it can't be stopped.
func (s *session) reconcile() error {
	switch wanted := s.wanted(); {
	case !wanted:
		return s.stop()
	case s.running || s.failed:
		return nil
	}
	if err := s.start(); err != nil {
		if err := s.stop(); err != nil {
			return err
		}
		s.failed = true
		s.Fail(fmt.Errorf("start: %w", err))
	}
	return nil
}

func (s *session) offered() uint64 {
	return s.device.Features() | virtio.TransportFeatures | featureProtocol
}

func (s *session) start() error {
	features := s.features &^ featureProtocol
	switch {
	case s.memory == nil:
		return errors.New("no guest memory")
	case s.features&^s.offered() != 0:
		return fmt.Errorf("features %#x were not offered", s.features&^s.offered())
	case features&virtio.FeatureVersion1 == 0:
		return errors.New("the driver is of the legacy kind; QEMU needs -global virtio-mmio.force-legacy=false")
	}
	a := &virtio.Activation{
		Features: features, Memory: s.memory.space, Transport: s,
		Queues: make([]*virtio.Virtqueue, s.queues),
	}
	for i := range s.rings {
		r := &s.rings[i]
		if r.kick == nil {
			continue
		}
		if err := r.open(s.memory, features); err != nil {
			return fmt.Errorf("queue %d: %w", i, err)
		}
		a.Queues[i] = virtio.NewVirtqueue(r.queue, r.kick, func() { s.notify(&r.call) })
	}
	s.running = true
	return s.device.Activate(a)
}

// stop resets the device if it runs. Each ring keeps where it has come to.
func (s *session) stop() error {
	if s.running {
		if err := s.device.Reset(); err != nil {
			return fmt.Errorf("reset: %w", err)
		}
	}
	for i := range s.rings {
		s.rings[i].settle()
	}
	s.running, s.failed = false, false
	return nil
}

// Fail implements virtio.Transport. The front end has no way to tell the guest.
func (s *session) Fail(err error) {
	s.log.Warn("device needs a reset", "error", err)
	for i := range s.rings {
		s.notify(&s.rings[i].err)
	}
}

// ConfigChanged implements virtio.Transport.
func (s *session) ConfigChanged() {
	if err := s.upcall.configChanged(); err != nil {
		s.log.Warn("change of the configuration is not told", "error", err)
	}
}

func (s *session) notify(n *donated) {
	if err := n.signal(); err != nil {
		s.log.Warn("interrupt is lost", "error", err)
	}
}
