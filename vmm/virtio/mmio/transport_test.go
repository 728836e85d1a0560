package mmio

import (
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"slices"
	"testing"

	"github.com/huskvm/husk/vmm/eventfd"
	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/queue"
	"github.com/huskvm/husk/vmm/virtio/virtiotest"
)

// echo answers each chain with what it read.
type echo struct {
	workers     virtio.Workers
	activations int
	features    uint64
	queues      int
	config      [8]byte
	err         error
}

func (e *echo) ID() virtio.ID                    { return virtio.Entropy }
func (e *echo) Features() uint64                 { return 1 << 3 }
func (e *echo) Queues() []uint16                 { return []uint16{16, 16} }
func (e *echo) ReadConfig(p []byte, off uint32)  { virtio.ReadConfigBytes(e.config[:], p, off) }
func (e *echo) WriteConfig(p []byte, off uint32) { copy(e.config[min(int(off), 8):], p) }
func (e *echo) Reset() error                     { e.workers.Stop(); return nil }
func (e *echo) Activate(a *virtio.Activation) error {
	e.activations++
	e.features = a.Features
	e.queues = 0
	for _, q := range a.Queues {
		if q != nil {
			e.queues++
		}
		e.workers.Serve(q, a.Transport, func(c *queue.Chain) error {
			b, err := io.ReadAll(c)
			if err != nil {
				return err
			}
			_, err = c.Write(b)
			return err
		})
	}
	return e.err
}

type line struct{ signals chan struct{} }

func (l line) Signal() error {
	select {
	case l.signals <- struct{}{}:
	default:
	}
	return nil
}

type guest struct {
	*Transport
	device *echo
	driver *virtiotest.Driver
	irq    line
}

func newGuest(t *testing.T) *guest {
	t.Helper()
	g := &guest{device: &echo{}, driver: virtiotest.NewDriver(t, 1<<20), irq: line{make(chan struct{}, 1)}}
	tr, err := New(Config{Device: g.device, Memory: g.driver.Memory, Interrupt: g.irq, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	g.Transport = tr
	t.Cleanup(func() { _ = tr.Close() })
	return g
}

func (g *guest) get(off uint64) uint32 {
	var b [4]byte
	g.Read(off, b[:])
	return binary.LittleEndian.Uint32(b[:])
}

func (g *guest) set(off uint64, v uint32) {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], v)
	g.Write(off, b[:])
}

// negotiate goes up to FEATURES_OK as Linux does.
func (g *guest) negotiate(features uint64) {
	g.set(regStatus, 0)
	g.set(regStatus, 1)
	g.set(regStatus, 3)
	for sel := range uint32(2) {
		g.set(regDriverFeaturesSel, sel)
		g.set(regDriverFeatures, half(features, sel))
	}
	g.set(regStatus, 11)
}

func (g *guest) setQueue(i uint32, cfg queue.Config) {
	g.set(regQueueSel, i)
	g.set(regQueueNum, uint32(cfg.Size))
	g.set(regQueueDescLow, uint32(cfg.Desc))
	g.set(regQueueDescHigh, uint32(cfg.Desc>>32))
	g.set(regQueueDriverLow, uint32(cfg.Driver))
	g.set(regQueueDriverHigh, uint32(cfg.Driver>>32))
	g.set(regQueueDeviceLow, uint32(cfg.Device))
	g.set(regQueueDeviceHigh, uint32(cfg.Device>>32))
	g.set(regQueueReady, 1)
}

const all = virtio.TransportFeatures | 1<<3

func TestDriverFindsTheDevice(t *testing.T) {
	g := newGuest(t)
	for off, want := range map[uint64]uint32{regMagicValue: 0x74726976, regVersion: 2, regDeviceID: 4, regQueueNumMax: 16} {
		if got := g.get(off); got != want {
			t.Errorf("register %#x is %#x, want %#x", off, got, want)
		}
	}
	g.set(regDeviceFeaturesSel, 1)
	if got := g.get(regDeviceFeatures); got != 1 {
		t.Errorf("high features are %#x, want VERSION_1", got)
	}
	g.set(regQueueSel, 2)
	if got := g.get(regQueueNumMax); got != 0 {
		t.Errorf("a queue that is not there has size %d", got)
	}
}

func TestChainGoesRoundThroughTheRegisters(t *testing.T) {
	g := newGuest(t)
	g.negotiate(all)
	q := g.driver.NewQueue(8)
	g.setQueue(1, q.Config)
	g.set(regStatus, 15)
	if g.get(regStatus) != 15 || g.device.activations != 1 || g.device.queues != 1 || g.device.features != all {
		t.Fatalf("status %d, %d activations with %d queues and features %#x", g.get(regStatus), g.device.activations, g.device.queues, g.device.features)
	}
	in, out := g.driver.Put([]byte("hello")), g.driver.Alloc(8)
	q.Submit(0, virtiotest.Desc{Addr: in, Len: 5}, virtiotest.Desc{Addr: out, Len: 8, Writable: true})
	g.set(regQueueNotify, 1)
	<-g.irq.signals
	if got := g.get(regInterruptStatus); got != interruptQueue {
		t.Errorf("interrupt status %d", got)
	}
	g.set(regInterruptACK, 1)
	if got := g.get(regInterruptStatus); got != 0 {
		t.Errorf("interrupt status %d after the acknowledgement", got)
	}
	if _, n := q.Used(); n != 5 || string(g.driver.Bytes(out, 5)) != "hello" {
		t.Errorf("%d bytes, %q", n, g.driver.Bytes(out, 5))
	}
	// And again after a reset.
	g.negotiate(all)
	q = g.driver.NewQueue(8)
	g.setQueue(0, q.Config)
	g.set(regStatus, 15)
	q.Submit(0, virtiotest.Desc{Addr: in, Len: 5}, virtiotest.Desc{Addr: out, Len: 4, Writable: true})
	g.set(regQueueNotify, 0)
	<-g.irq.signals
	if _, n := q.Used(); n != 4 || g.device.activations != 2 {
		t.Errorf("after the reset: %d bytes, %d activations", n, g.device.activations)
	}
}

// borrower lends its queues out.
type borrower struct {
	echo
	fds []virtio.Eventfds
}

func (b *borrower) Activate(a *virtio.Activation) error {
	for _, vq := range a.Queues {
		if _, fds, ok := vq.Lend(); ok {
			b.fds = append(b.fds, fds)
		}
	}
	return nil
}

// Who has borrowed a queue signals the line itself, so the status register always says that it may be for a queue.
func TestTheInterruptOfALentQueueIsAlwaysPending(t *testing.T) {
	line, err := eventfd.New()
	if err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	d := &borrower{}
	g := &guest{driver: virtiotest.NewDriver(t, 1<<20)}
	if g.Transport, err = New(Config{Device: d, Memory: g.driver.Memory, Interrupt: line, Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	g.negotiate(all)
	g.setQueue(0, g.driver.NewQueue(16).Config)
	g.setQueue(1, g.driver.NewQueue(16).Config)
	if got := g.get(regInterruptStatus); got != 0 {
		t.Errorf("before: %#x", got)
	}
	g.set(regStatus, 15)
	want := []virtio.Eventfds{{Kick: g.Kicks()[0].FD(), Call: line.FD()}, {Kick: g.Kicks()[1].FD(), Call: line.FD()}}
	if !slices.Equal(d.fds, want) {
		t.Errorf("lent %v, want %v", d.fds, want)
	}
	g.set(regInterruptACK, 3)
	if got := g.get(regInterruptStatus); got != interruptQueue {
		t.Errorf("lent: %#x", got)
	}
	g.ConfigChanged()
	if got := g.get(regInterruptStatus); got != interruptQueue|interruptConfig {
		t.Errorf("with another configuration: %#x", got)
	}
	g.set(regInterruptACK, interruptConfig)
	if got := g.get(regInterruptStatus); got != interruptQueue {
		t.Errorf("acknowledged: %#x", got)
	}
	g.set(regStatus, 0)
	if got := g.get(regInterruptStatus); got != 0 {
		t.Errorf("after a reset: %#x", got)
	}
}

func TestStatusGoesForwardStepByStepOnly(t *testing.T) {
	for name, c := range map[string]struct {
		features uint64
		writes   []uint32
		want     uint32
	}{
		"no step left out":             {all, []uint32{1, 11}, 1},
		"straight to running":          {all, []uint32{15}, 0},
		"no way back":                  {all, []uint32{1, 3, 1}, 3},
		"failed stays until a reset":   {all, []uint32{1, 128, 3}, 129},
		"reset leads out of a failure": {all, []uint32{1, 128, 0, 1}, 1},
		"legacy driver":                {1 << 3, []uint32{1, 3, 11}, 3},
		"feature that is not offered":  {all | 1<<5, []uint32{1, 3, 11}, 3},
	} {
		g := newGuest(t)
		for _, w := range c.writes {
			if w == 11 {
				for sel := range uint32(2) {
					g.set(regDriverFeaturesSel, sel)
					g.set(regDriverFeatures, half(c.features, sel))
				}
			}
			g.set(regStatus, w)
		}
		if got := g.get(regStatus); got != c.want {
			t.Errorf("%s: status %d, want %d", name, got, c.want)
		}
	}
}

func TestBadQueueNeedsAReset(t *testing.T) {
	g := newGuest(t)
	g.negotiate(all)
	q := g.driver.NewQueue(8)
	q.Config.Desc = 1 << 40
	g.setQueue(0, q.Config)
	g.set(regStatus, 15)
	if g.get(regStatus)&statusNeedsReset == 0 || g.device.activations != 0 {
		t.Errorf("status %d, %d activations", g.get(regStatus), g.device.activations)
	}
	if g.get(regInterruptStatus) != interruptConfig {
		t.Error("no configuration interrupt")
	}
	g.set(regStatus, 0)
	if got := g.get(regStatus); got != 0 {
		t.Errorf("status %d after the reset", got)
	}
}

func TestDeviceThatCannotStartNeedsAReset(t *testing.T) {
	g := newGuest(t)
	g.device.err = errors.New("no")
	g.negotiate(all)
	g.set(regStatus, 15)
	if g.get(regStatus)&statusNeedsReset == 0 {
		t.Errorf("status %d", g.get(regStatus))
	}
}

// FuzzRegisters writes anything anywhere: a driver that runs amok stays in its own memory.
func FuzzRegisters(f *testing.F) {
	f.Add([]byte{regStatus, 1, 0, 0, 0, regStatus, 3, 0, 0, 0, regDriverFeaturesSel, 1, 0, 0, 0, regDriverFeatures, 1, 0, 0, 0,
		regStatus, 11, 0, 0, 0, regQueueNum, 8, 0, 0, 0, regQueueDescLow + 2, 16, 0, 0, 0, regQueueReady, 1, 0, 0, 0, regStatus, 15, 0, 0, 0, regQueueNotify, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, ops []byte) {
		d := virtiotest.NewDriver(t, 1<<16)
		tr, err := New(Config{Device: &echo{}, Memory: d.Memory, Interrupt: line{make(chan struct{}, 1)}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		for len(ops) >= 5 {
			off := uint64(ops[0])
			v := append([]byte(nil), ops[1:5]...)
			tr.Write(off, v)
			tr.Read(off, v)
			ops = ops[5:]
		}
		if err := tr.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
