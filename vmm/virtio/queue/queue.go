// Package queue is the device's side of a split virtqueue (virtio 1.2 §2.7), with indirect descriptors and
// the event index.
//
// The rings are shared with a guest that may change them at any time and for the worse. Every descriptor is
// copied before it is looked at, every address is checked, every chain has a bounded length. What breaks the
// rules is a *GuestError; the queue must not be used after one.
package queue

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/huskvm/husk/vmm/memory"
)

// MaxSize is the largest queue there is (virtio 1.2 §2.7).
const MaxSize = 32768

const (
	descSize = 16

	descNext     = 1 << 0
	descWrite    = 1 << 1
	descIndirect = 1 << 2

	availNoInterrupt = 1 << 0
	usedNoNotify     = 1 << 0

	// maxChain bounds what a chain with an indirect table may have, whatever the queue's size.
	maxChain = 1024
)

// GuestError is an offence of the driver against the specification.
type GuestError struct {
	Reason string
}

func (e *GuestError) Error() string { return "guest: " + e.Reason }

// Offence returns a *GuestError.
func Offence(format string, args ...any) error {
	return &GuestError{Reason: fmt.Sprintf(format, args...)}
}

// Config is a queue as the driver has set it up.
type Config struct {
	Size     uint16 // a power of two
	Desc     uint64 // guest physical addresses of the three areas
	Driver   uint64 // avail ring
	Device   uint64 // used ring
	Start    uint16 // index at which both rings begin: not 0 in a queue that goes on
	EventIdx bool   // negotiated features
	Indirect bool
}

// Queue is one virtqueue. Pop, EnableKicks and DisableKicks belong to one goroutine; Push may be called from any.
type Queue struct {
	mem  *memory.Space
	cfg  Config
	desc []byte

	availRing   []byte
	availFlags  memory.Word
	availIdx    memory.Word
	usedEvent   memory.Word // the driver's wish: interrupt when this index is used
	nextAvail   uint16
	usedFlags   memory.Word
	availEvent  memory.Word // our wish: kick when this index is available
	descScratch [descSize]byte

	mu       sync.Mutex
	usedRing []byte
	usedIdx  memory.Word
	nextUsed uint16
	free     []*Chain // to be used again
}

// New checks the driver's set-up. The error is a *GuestError.
func New(mem *memory.Space, cfg Config) (*Queue, error) {
	size := uint64(cfg.Size)
	if size == 0 || size > MaxSize || size&(size-1) != 0 {
		return nil, Offence("queue size %d is not a power of two up to %d", size, MaxSize)
	}
	for _, a := range []struct {
		name        string
		addr, align uint64
	}{{"descriptor table", cfg.Desc, 16}, {"avail ring", cfg.Driver, 2}, {"used ring", cfg.Device, 4}} {
		if a.addr%a.align != 0 {
			return nil, Offence("%s at %#x is not aligned to %d", a.name, a.addr, a.align)
		}
	}
	q := &Queue{mem: mem, cfg: cfg, nextAvail: cfg.Start, nextUsed: cfg.Start}
	var err error
	slice := func(addr, n uint64) (b []byte) {
		if err == nil {
			b, err = mem.Slice(addr, n)
		}
		return b
	}
	word := func(addr uint64) (w memory.Word) {
		if err == nil {
			w, err = mem.WordAt(addr)
		}
		return w
	}
	q.desc = slice(cfg.Desc, size*descSize)
	slice(cfg.Driver, 6+2*size)
	slice(cfg.Device, 6+8*size)
	q.availFlags, q.availIdx = word(cfg.Driver), word(cfg.Driver+2)
	q.availRing = slice(cfg.Driver+4, 2*size)
	q.usedEvent = word(cfg.Driver + 4 + 2*size)
	q.usedFlags, q.usedIdx = word(cfg.Device), word(cfg.Device+2)
	q.usedRing = slice(cfg.Device+4, 8*size)
	q.availEvent = word(cfg.Device + 4 + 8*size)
	if err != nil {
		return nil, Offence("queue of %d: %v", size, err)
	}
	return q, nil
}

// Config is the driver's set-up, as it was checked.
func (q *Queue) Config() Config { return q.cfg }

// Pop takes the next available chain; nil when there is none.
func (q *Queue) Pop() (*Chain, error) {
	idx := q.availIdx.Load()
	if idx == q.nextAvail {
		return nil, nil
	}
	if pending := idx - q.nextAvail; pending > q.cfg.Size {
		return nil, Offence("avail index %d is %d ahead of a queue of %d", idx, pending, q.cfg.Size)
	}
	slot := int(q.nextAvail % q.cfg.Size)
	head := binary.LittleEndian.Uint16(q.availRing[2*slot:])
	q.nextAvail++
	c := q.newChain(head)
	if err := q.walk(c); err != nil {
		return nil, err
	}
	return c, nil
}

// Push puts the chains in the used ring, where the driver finds all of them at once, and says whether it wants an
// interrupt for them (virtio 1.2 §2.7.7.2).
func (q *Queue) Push(chains ...*Chain) (interrupt bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	old := q.nextUsed
	for _, c := range chains {
		slot := int(q.nextUsed % q.cfg.Size)
		binary.LittleEndian.PutUint32(q.usedRing[8*slot:], uint32(c.head))
		binary.LittleEndian.PutUint32(q.usedRing[8*slot+4:], c.written)
		q.nextUsed++
		c.reset(0)
		q.free = append(q.free, c)
	}
	q.usedIdx.Store(q.nextUsed)
	if q.cfg.EventIdx {
		return q.nextUsed-q.usedEvent.Load()-1 < q.nextUsed-old
	}
	return q.availFlags.Load()&availNoInterrupt == 0
}

// Used is the index that the next chain to be pushed will have. A queue that begins there goes on where this one
// ended, and takes chains that were taken in order and never pushed once more.
func (q *Queue) Used() uint16 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.nextUsed
}

// EnableKicks asks the driver to kick for the next chain. True means that a chain has become available already,
// so there may be no kick for it.
func (q *Queue) EnableKicks() bool {
	if q.cfg.EventIdx {
		q.availEvent.Store(q.nextAvail)
	} else {
		q.usedFlags.Store(0)
	}
	return q.availIdx.Load() != q.nextAvail
}

// DisableKicks tells the driver that it need not kick. With the event index there is nothing to say: an index
// that was passed asks for nothing.
func (q *Queue) DisableKicks() {
	if !q.cfg.EventIdx {
		q.usedFlags.Store(usedNoNotify)
	}
}

func (q *Queue) newChain(head uint16) *Chain {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := len(q.free); n > 0 {
		c := q.free[n-1]
		q.free = q.free[:n-1]
		c.reset(head)
		return c
	}
	return &Chain{head: head}
}
