// Package mmio is virtio over memory-mapped registers (virtio 1.2 §4.2), without the legacy interface.
//
// A Transport owns the registers and the driver's way through the status bits; the device behind it is handed
// its queues when the driver says DRIVER_OK, and gives them back at a reset. Queue kicks arrive on eventfds,
// which the machine registers with KVM; a kick that comes as a plain write works as well.
package mmio

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/huskvm/husk/vmm/eventfd"
	"github.com/huskvm/husk/vmm/memory"
	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/queue"
)

// Interrupt is the transport's line to the guest's interrupt controller, edge-triggered.
type Interrupt interface {
	Signal() error
}

// Config is what a transport needs; all of it is required.
type Config struct {
	Device    virtio.Device
	Memory    *memory.Space
	Interrupt Interrupt
	Log       *slog.Logger
}

// Transport is one device's register window. It implements bus.Handler and virtio.Transport.
type Transport struct {
	cfg   Config
	sizes []uint16
	kicks []*eventfd.EventFD

	interruptStatus atomic.Uint32
	lent            atomic.Bool // a queue, to somebody who signals the interrupt past this transport
	needsReset      atomic.Bool
	generation      atomic.Uint32

	mu             sync.Mutex
	phase          phase
	failed         bool
	activated      bool
	deviceSel      uint32
	driverSel      uint32
	driverFeatures uint64
	queueSel       uint32
	queues         []queueState
}

type queueState struct {
	config queue.Config
	ready  bool
}

// New returns the transport of a device in reset.
func New(cfg Config) (*Transport, error) {
	t := &Transport{cfg: cfg, sizes: cfg.Device.Queues()}
	for range t.sizes {
		k, err := eventfd.New()
		if err != nil {
			_ = t.Close()
			return nil, err
		}
		t.kicks = append(t.kicks, k)
	}
	t.queues = make([]queueState, len(t.sizes))
	return t, nil
}

// Kicks are the queues' doorbells, by queue index. They live until Close.
func (t *Transport) Kicks() []*eventfd.EventFD { return t.kicks }

// Close resets the device and releases the doorbells. No vCPU may run.
func (t *Transport) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := t.reset()
	for _, k := range t.kicks {
		_ = k.Close()
	}
	return err
}

// ConfigChanged implements virtio.Transport.
func (t *Transport) ConfigChanged() {
	t.generation.Add(1)
	t.interrupt(interruptConfig)
}

// Fail implements virtio.Transport.
func (t *Transport) Fail(err error) {
	t.cfg.Log.Warn("device needs a reset", "device", uint32(t.cfg.Device.ID()), "error", err)
	t.needsReset.Store(true)
	t.interrupt(interruptConfig)
}

// pending is what the interrupt may be for. Of a queue that is lent nobody says, so it is always that, too.
func (t *Transport) pending() uint32 {
	bits := t.interruptStatus.Load()
	if t.lent.Load() {
		bits |= interruptQueue
	}
	return bits
}

func (t *Transport) interrupt(bits uint32) {
	t.interruptStatus.Or(bits)
	if err := t.cfg.Interrupt.Signal(); err != nil {
		t.cfg.Log.Warn("interrupt is lost", "device", uint32(t.cfg.Device.ID()), "error", err)
	}
}

// Read implements bus.Handler. Registers are read with 32 bits, the configuration space with any width.
func (t *Transport) Read(off uint64, p []byte) {
	if off == regInterruptStatus && len(p) == 4 {
		// The one register of the hot path takes no lock.
		binary.LittleEndian.PutUint32(p, t.pending())
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(p)
	switch {
	case off >= regConfig:
		t.cfg.Device.ReadConfig(p, uint32(off-regConfig))
	case len(p) == 4:
		binary.LittleEndian.PutUint32(p, t.readRegister(off))
	}
}

// Write implements bus.Handler. What the driver's phase doesn't allow is ignored.
func (t *Transport) Write(off uint64, p []byte) {
	if off < regConfig && len(p) != 4 {
		return
	}
	switch off {
	case regInterruptACK:
		t.interruptStatus.And(^binary.LittleEndian.Uint32(p))
		return
	case regQueueNotify:
		if i := binary.LittleEndian.Uint32(p); uint64(i) < uint64(len(t.kicks)) {
			_ = t.kicks[i].Signal()
		}
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if off >= regConfig {
		if t.phase >= phaseFeatures {
			t.cfg.Device.WriteConfig(p, uint32(off-regConfig))
		}
		return
	}
	t.writeRegister(off, binary.LittleEndian.Uint32(p))
}

func (t *Transport) readRegister(off uint64) uint32 {
	switch off {
	case regMagicValue:
		return magicValue
	case regVersion:
		return version
	case regDeviceID:
		return uint32(t.cfg.Device.ID())
	case regVendorID:
		return vendorID
	case regDeviceFeatures:
		return half(t.offered(), t.deviceSel)
	case regQueueNumMax:
		if t.queue() != nil {
			return uint32(t.sizes[t.queueSel])
		}
	case regQueueReady:
		if q := t.queue(); q != nil && q.ready {
			return 1
		}
	case regStatus:
		return t.status()
	case regSHMLenLow, regSHMLenHigh:
		return ^uint32(0) // no shared memory regions (§4.2.2)
	case regConfigGeneration:
		return t.generation.Load()
	}
	return 0
}

func (t *Transport) writeRegister(off uint64, v uint32) {
	switch off {
	case regDeviceFeaturesSel:
		t.deviceSel = v
	case regDriverFeaturesSel:
		t.driverSel = v
	case regDriverFeatures:
		if t.phase == phaseFeatures {
			setHalf(&t.driverFeatures, t.driverSel, v)
		}
	case regQueueSel:
		t.queueSel = v
	case regStatus:
		t.setStatus(v)
	default:
		if q := t.queue(); q != nil && t.phase == phaseQueues {
			q.write(off, v, t.sizes[t.queueSel])
		}
	}
}

func (q *queueState) write(off uint64, v uint32, maxSize uint16) {
	if off == regQueueReady {
		q.ready = v == 1
		return
	}
	if q.ready {
		return // §4.2.2.2: the driver does not touch a queue that is ready
	}
	switch off {
	case regQueueNum:
		if v <= uint32(maxSize) {
			q.config.Size = uint16(v)
		}
	case regQueueDescLow:
		setHalf(&q.config.Desc, 0, v)
	case regQueueDescHigh:
		setHalf(&q.config.Desc, 1, v)
	case regQueueDriverLow:
		setHalf(&q.config.Driver, 0, v)
	case regQueueDriverHigh:
		setHalf(&q.config.Driver, 1, v)
	case regQueueDeviceLow:
		setHalf(&q.config.Device, 0, v)
	case regQueueDeviceHigh:
		setHalf(&q.config.Device, 1, v)
	}
}

func (t *Transport) offered() uint64 { return t.cfg.Device.Features() | virtio.TransportFeatures }

func (t *Transport) queue() *queueState {
	if uint64(t.queueSel) < uint64(len(t.queues)) {
		return &t.queues[t.queueSel]
	}
	return nil
}

func (t *Transport) status() uint32 {
	s := uint32(t.phase)
	if t.failed {
		s |= statusFailed
	}
	if t.needsReset.Load() {
		s |= statusNeedsReset
	}
	return s
}

// setStatus takes a driver's write of the status register. Only a reset leads out of a failure, and only the
// next phase or a reset is accepted.
func (t *Transport) setStatus(v uint32) {
	switch {
	case v == 0:
		if err := t.reset(); err != nil {
			t.Fail(fmt.Errorf("reset: %w", err))
		}
		return
	case v&statusFailed != 0:
		t.failed = true
		return
	case t.failed:
		return
	}
	next, ok := nextPhase[t.phase]
	if !ok || phase(v&^statusNeedsReset) != next {
		return
	}
	switch next {
	case phaseQueues:
		// Bits that were not offered, or a driver from before 1.0: FEATURES_OK stays clear (§3.1.1 step 6).
		if t.driverFeatures&^t.offered() != 0 || t.driverFeatures&virtio.FeatureVersion1 == 0 {
			return
		}
	case phaseRunning:
		if err := t.activate(); err != nil {
			t.Fail(err)
		}
	}
	t.phase = next
}

func (t *Transport) activate() error {
	a := &virtio.Activation{Features: t.driverFeatures, Memory: t.cfg.Memory, Transport: t}
	for i := range t.queues {
		s := &t.queues[i]
		if !s.ready {
			a.Queues = append(a.Queues, nil)
			continue
		}
		s.config.EventIdx = t.driverFeatures&virtio.FeatureEventIdx != 0
		s.config.Indirect = t.driverFeatures&virtio.FeatureIndirectDesc != 0
		q, err := queue.New(t.cfg.Memory, s.config)
		if err != nil {
			return fmt.Errorf("queue %d: %w", i, err)
		}
		vq := virtio.NewVirtqueue(q, t.kicks[i], func() { t.interrupt(interruptQueue) })
		if line, ok := t.cfg.Interrupt.(*eventfd.EventFD); ok {
			vq.Lendable(func() virtio.Eventfds {
				t.lent.Store(true)
				return virtio.Eventfds{Kick: t.kicks[i].FD(), Call: line.FD()}
			})
		}
		a.Queues = append(a.Queues, vq)
	}
	t.activated = true
	return t.cfg.Device.Activate(a)
}

func (t *Transport) reset() error {
	var err error
	if t.activated {
		err = t.cfg.Device.Reset()
		t.activated = false
	}
	t.phase, t.failed, t.driverFeatures = phaseReset, false, 0
	t.deviceSel, t.driverSel, t.queueSel = 0, 0, 0
	clear(t.queues)
	t.needsReset.Store(false)
	t.interruptStatus.Store(0)
	t.lent.Store(false)
	return err
}

// half returns the low (sel 0) or high (sel 1) 32 bits of v.
func half(v uint64, sel uint32) uint32 {
	if sel > 1 {
		return 0
	}
	return uint32(v >> (32 * sel))
}

func setHalf(v *uint64, sel, bits uint32) {
	if sel <= 1 {
		shift := 32 * sel
		*v = *v&^(uint64(0xffffffff)<<shift) | uint64(bits)<<shift
	}
}
