// Package virtiotest is the driver's side of a virtqueue, for tests, fuzzers and benchmarks of queues and devices.
//
// It keeps the rings in a memory space of its own on the heap, where the race detector sees them, and speaks to
// a device as a guest would: Submit chains, kick, and take what was used.
package virtiotest

import (
	"encoding/binary"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/huskvm/husk/vmm/memory"
	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/queue"
)

// Base is where the driver's memory begins in the guest's address space.
const Base = 0x100000

// Driver is one guest's memory and the queues in it.
type Driver struct {
	Memory *memory.Space
	RAM    []byte // the memory itself, from Base

	t    testing.TB
	next uint64 // first free address
}

// NewDriver returns a driver with size bytes of guest memory.
func NewDriver(t testing.TB, size int) *Driver {
	t.Helper()
	return NewDriverIn(t, make([]byte, size))
}

// NewDriverIn returns a driver whose guest memory is ram, such as a mapping that is shared with the device.
func NewDriverIn(t testing.TB, ram []byte) *Driver {
	t.Helper()
	mem, err := memory.NewSpace(memory.Region{Base: Base, Bytes: ram})
	if err != nil {
		t.Fatal(err)
	}
	return &Driver{Memory: mem, RAM: ram, t: t, next: Base}
}

// Alloc returns the address of n fresh bytes, aligned to 4096 when they are a page or more, else to 16.
func (d *Driver) Alloc(n int) uint64 {
	d.t.Helper()
	align := uint64(16)
	if n >= 4096 {
		align = 4096
	}
	addr := (d.next + align - 1) &^ (align - 1)
	if addr+uint64(n) > Base+uint64(len(d.RAM)) {
		d.t.Fatalf("driver is out of memory: %d bytes wanted", n)
	}
	d.next = addr + uint64(n)
	return addr
}

// Put allocates room for p and copies it there.
func (d *Driver) Put(p []byte) uint64 {
	addr := d.Alloc(len(p))
	copy(d.Bytes(addr, len(p)), p)
	return addr
}

// Bytes is the memory at addr.
func (d *Driver) Bytes(addr uint64, n int) []byte {
	d.t.Helper()
	b, err := d.Memory.Slice(addr, uint64(n))
	if err != nil {
		d.t.Fatal(err)
	}
	return b
}

// Queue is the driver's side of one virtqueue.
type Queue struct {
	Config queue.Config

	d        *Driver
	avail    memory.Word
	used     memory.Word
	nextUsed uint16
	kick     *doorbell
	irq      chan struct{}
}

// NewQueue lays out a queue with event index and indirect descriptors.
func (d *Driver) NewQueue(size uint16) *Queue {
	d.t.Helper()
	cfg := queue.Config{
		Size: size, EventIdx: true, Indirect: true,
		Desc: d.Alloc(16 * int(size)), Driver: d.Alloc(6 + 2*int(size)), Device: d.Alloc(6 + 8*int(size)),
	}
	q := &Queue{Config: cfg, d: d, kick: newDoorbell(), irq: make(chan struct{}, 1)}
	q.avail, q.used = q.word(cfg.Driver+2), q.word(cfg.Device+2)
	return q
}

// Reset makes the rings empty again, as a driver does before it sets a device up anew. The device must be reset.
func (q *Queue) Reset() {
	q.d.t.Helper()
	clear(q.d.Bytes(q.Config.Driver, 6+2*int(q.Config.Size)))
	clear(q.d.Bytes(q.Config.Device, 6+8*int(q.Config.Size)))
	q.nextUsed = 0
}

// Device returns the device's side.
func (q *Queue) Device() *virtio.Virtqueue {
	q.d.t.Helper()
	dq, err := queue.New(q.d.Memory, q.Config)
	if err != nil {
		q.d.t.Fatal(err)
	}
	return virtio.NewVirtqueue(dq, q.kick, func() {
		select {
		case q.irq <- struct{}{}:
		default:
		}
	})
}

// Desc is one descriptor.
type Desc struct {
	Addr     uint64
	Len      uint32
	Writable bool
}

// SetDesc writes entry i of the descriptor table as it is.
func (q *Queue) SetDesc(i uint16, addr uint64, n uint32, flags, next uint16) {
	b := q.d.Bytes(q.Config.Desc+16*uint64(i), 16)
	binary.LittleEndian.PutUint64(b, addr)
	binary.LittleEndian.PutUint32(b[8:], n)
	binary.LittleEndian.PutUint16(b[12:], flags)
	binary.LittleEndian.PutUint16(b[14:], next)
}

// Submit makes a chain of the descriptors from table entry first on, and kicks if the device wants that.
func (q *Queue) Submit(first uint16, chain ...Desc) {
	for i, desc := range chain {
		var flags uint16
		if i < len(chain)-1 {
			flags |= 1
		}
		if desc.Writable {
			flags |= 2
		}
		at := first + uint16(i)
		q.SetDesc(at, desc.Addr, desc.Len, flags, at+1)
	}
	q.SubmitHead(first)
}

// SubmitHead makes the chain at head available, and kicks if the device wants that: a device that forgets to ask
// hears nothing, as with a real driver (virtio 1.2 §2.7.10).
func (q *Queue) SubmitHead(head uint16) {
	q.d.t.Helper()
	idx := q.avail.Load()
	binary.LittleEndian.PutUint16(q.d.Bytes(q.Config.Driver+4+2*uint64(idx%q.Config.Size), 2), head)
	q.avail.Store(idx + 1)
	if q.Config.EventIdx && q.word(q.Config.Device+4+8*uint64(q.Config.Size)).Load() == idx ||
		!q.Config.EventIdx && q.word(q.Config.Device).Load()&1 == 0 {
		q.kick.Ring()
	}
}

// SetAvailIndex makes the device believe that the driver has submitted idx chains, and kicks.
func (q *Queue) SetAvailIndex(idx uint16) {
	q.avail.Store(idx)
	q.kick.Ring()
}

// SetUsedEvent asks for an interrupt once the chain with that index is used (§2.7.8).
func (q *Queue) SetUsedEvent(idx uint16) {
	q.d.t.Helper()
	q.word(q.Config.Driver + 4 + 2*uint64(q.Config.Size)).Store(idx)
}

func (q *Queue) word(addr uint64) memory.Word {
	q.d.t.Helper()
	w, err := q.d.Memory.WordAt(addr)
	if err != nil {
		q.d.t.Fatal(err)
	}
	return w
}

// Used takes the next used element; it waits for one and fails the test after ten seconds.
func (q *Queue) Used() (head uint16, written uint32) {
	q.d.t.Helper()
	head, written, err := q.UsedWithin(10 * time.Second)
	if err != nil {
		q.d.t.Fatal(err)
	}
	return head, written
}

// SkipUsed passes over what is used and was not taken.
func (q *Queue) SkipUsed() { q.nextUsed = q.used.Load() }

// ErrNothingUsed is what UsedWithin returns at its deadline.
var ErrNothingUsed = errors.New("the device used nothing")

// UsedWithin is Used with a deadline of the caller's.
func (q *Queue) UsedWithin(d time.Duration) (head uint16, written uint32, err error) {
	deadline := time.After(d)
	for q.used.Load() == q.nextUsed {
		q.SetUsedEvent(q.nextUsed) // an interrupt for what is waited for
		if q.used.Load() != q.nextUsed {
			break
		}
		select {
		case <-q.irq:
		case <-deadline:
			return 0, 0, ErrNothingUsed
		}
	}
	b := q.d.Bytes(q.Config.Device+4+8*uint64(q.nextUsed%q.Config.Size), 8)
	q.nextUsed++
	return uint16(binary.LittleEndian.Uint32(b)), binary.LittleEndian.Uint32(b[4:]), nil
}

// Activation puts queues and memory together as a transport would. Failed tells what the device failed with.
func (d *Driver) Activation(features uint64, queues ...*Queue) (*virtio.Activation, *Transport) {
	d.t.Helper()
	tr := &Transport{Failed: make(chan error, 16), Changed: make(chan struct{}, 16)}
	a := &virtio.Activation{Features: features | virtio.TransportFeatures, Memory: d.Memory, Transport: tr}
	for _, q := range queues {
		a.Queues = append(a.Queues, q.Device())
	}
	return a, tr
}

// Transport records what a device asks of it.
type Transport struct {
	Failed  chan error
	Changed chan struct{}
}

// Fail implements virtio.Transport.
func (t *Transport) Fail(err error) {
	select {
	case t.Failed <- err:
	default:
	}
}

// ConfigChanged implements virtio.Transport.
func (t *Transport) ConfigChanged() {
	select {
	case t.Changed <- struct{}{}:
	default:
	}
}

var errStopped = errors.New("doorbell: stopped")

// doorbell is a virtio.Kick without a descriptor.
type doorbell struct {
	mu      sync.Mutex
	cond    *sync.Cond
	rung    bool
	stopped bool
}

func newDoorbell() *doorbell {
	b := &doorbell{}
	b.cond = sync.NewCond(&b.mu)
	return b
}

func (b *doorbell) set(rung, stopped bool) {
	b.mu.Lock()
	b.rung, b.stopped = b.rung || rung, stopped
	b.mu.Unlock()
	b.cond.Broadcast()
}

func (b *doorbell) Ring() {
	b.mu.Lock()
	b.rung = true
	b.mu.Unlock()
	b.cond.Broadcast()
}
func (b *doorbell) Cancel() { b.set(false, true) }
func (b *doorbell) Rearm()  { b.set(false, false) }

func (b *doorbell) Wait() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.rung && !b.stopped {
		b.cond.Wait()
	}
	if b.stopped {
		return errStopped
	}
	b.rung = false
	return nil
}
