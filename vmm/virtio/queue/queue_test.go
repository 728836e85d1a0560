package queue_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/huskvm/husk/vmm/memory"
	"github.com/huskvm/husk/vmm/virtio/queue"
	"github.com/huskvm/husk/vmm/virtio/virtiotest"
)

// pair is the two sides of a queue, without notifications between them.
type pair struct {
	*virtiotest.Queue
	d   *virtiotest.Driver
	dev *queue.Queue
}

func newPair(t testing.TB, size uint16) *pair {
	t.Helper()
	d := virtiotest.NewDriver(t, 1<<20)
	q := d.NewQueue(size)
	return &pair{Queue: q, d: d, dev: device(t, d, q)}
}

func device(t testing.TB, d *virtiotest.Driver, q *virtiotest.Queue) *queue.Queue {
	t.Helper()
	dev, err := queue.New(d.Memory, q.Config)
	if err != nil {
		t.Fatal(err)
	}
	return dev
}

func (p *pair) pop(t testing.TB) *queue.Chain {
	t.Helper()
	c, err := p.dev.Pop()
	if err != nil {
		t.Fatal(err)
	}
	if c == nil {
		t.Fatal("the queue is empty")
	}
	return c
}

// forward has n chains used, and returns the index that comes next.
func (p *pair) forward(t testing.TB, n int) uint16 {
	t.Helper()
	p.SetDesc(0, virtiotest.Base, 1, 0, 0)
	for i := range n {
		p.SetAvailIndex(uint16(i + 1)) // every slot of the ring is zero: the chain at 0
		p.dev.Push(p.pop(t))
	}
	p.SkipUsed()
	return uint16(n)
}

// refused wants the next Pop to be an offence that says so.
func (p *pair) refused(t *testing.T, reason string) {
	t.Helper()
	c, err := p.dev.Pop()
	offence(t, err, reason)
	if c != nil {
		t.Error("a chain came with the error")
	}
}

func offence(t *testing.T, err error, reason string) {
	t.Helper()
	var guest *queue.GuestError
	if !errors.As(err, &guest) || !strings.Contains(guest.Reason, reason) {
		t.Errorf("error %v, want an offence: %s", err, reason)
	}
}

func TestAnEmptyQueueGivesNothing(t *testing.T) {
	p := newPair(t, 4)
	if c, err := p.dev.Pop(); c != nil || err != nil {
		t.Errorf("%v, %v", c, err)
	}
}

func TestChainsComeInOrderAndGoBackInAny(t *testing.T) {
	p := newPair(t, 8)
	buf := p.d.Alloc(8)
	for i := range uint16(3) {
		p.Submit(i, virtiotest.Desc{Addr: buf, Len: uint32(i) + 1, Writable: true})
	}
	chains := []*queue.Chain{p.pop(t), p.pop(t), p.pop(t)}
	for i, c := range chains {
		if c.WritableLen() != uint64(i)+1 {
			t.Errorf("chain %d has %d bytes", i, c.WritableLen())
		}
	}
	for _, i := range []int{1, 2, 0} {
		_, _ = chains[i].Write(make([]byte, i+1))
		p.dev.Push(chains[i])
		if head, n := p.Used(); head != uint16(i) || n != uint32(i)+1 {
			t.Errorf("used head %d length %d, want %d and %d", head, n, i, i+1)
		}
	}
}

// §2.7: the sizes and alignments of the three areas.
func TestSetUpIsChecked(t *testing.T) {
	d := virtiotest.NewDriver(t, 1<<20)
	good := d.NewQueue(16).Config
	end := uint64(virtiotest.Base + 1<<20)
	for reason, change := range map[string]func(*queue.Config){
		"queue size 0 ":                func(c *queue.Config) { c.Size = 0 },
		"queue size 12 ":               func(c *queue.Config) { c.Size = 12 },
		"queue size 32769 ":            func(c *queue.Config) { c.Size = 32769 },
		"descriptor table at 0x100008": func(c *queue.Config) { c.Desc = virtiotest.Base + 8 },
		"avail ring at 0x100001":       func(c *queue.Config) { c.Driver = virtiotest.Base + 1 },
		"used ring at 0x100002":        func(c *queue.Config) { c.Device = virtiotest.Base + 2 },
		"256 bytes at 0x1fff10":        func(c *queue.Config) { c.Desc = end - 16*16 + 16 },
		"38 bytes at 0x1fffdc":         func(c *queue.Config) { c.Driver = end - 36 },
		"134 bytes at 0x1fff7c":        func(c *queue.Config) { c.Device = end - 132 },
		"256 bytes at 0x0":             func(c *queue.Config) { c.Desc = 0 },
		"0xffffffffffffff":             func(c *queue.Config) { c.Device = 1<<64 - 4 },
	} {
		cfg := good
		change(&cfg)
		_, err := queue.New(d.Memory, cfg)
		offence(t, err, reason)
	}
	for _, size := range []uint16{1, 2, 256, queue.MaxSize} {
		d := virtiotest.NewDriver(t, 1<<20)
		if _, err := queue.New(d.Memory, d.NewQueue(size).Config); err != nil {
			t.Errorf("size %d: %v", size, err)
		}
	}
}

// §2.7.13.3: the index counts what is available, so it is never more than the queue's size ahead.
func TestAnIndexThatRunsAheadIsAnOffence(t *testing.T) {
	p := newPair(t, 4)
	p.SetAvailIndex(5)
	p.refused(t, "5 ahead of a queue of 4")

	p = newPair(t, 4)
	p.SetDesc(0, virtiotest.Base, 1, 0, 0)
	p.SetAvailIndex(4)
	for range 4 { // every slot of the ring is zero: descriptor 0
		p.pop(t)
	}
	p.SetAvailIndex(3) // back again is far ahead
	p.refused(t, "65535 ahead")
}

func TestIndicesWrapAround(t *testing.T) {
	p := newPair(t, 4)
	buf := p.d.Alloc(16)
	p.forward(t, 1<<16-20)
	for i := range 50 {
		p.Submit(uint16(i%4), virtiotest.Desc{Addr: buf, Len: 16, Writable: true})
		c := p.pop(t)
		c.Filled(uint64(i % 17))
		p.dev.Push(c)
		if head, n := p.Used(); head != uint16(i%4) || n != uint32(i%17) {
			t.Fatalf("chain %d: used head %d length %d", i, head, n)
		}
	}
}

// The rings may be the last thing in memory: the 16-bit fields are reached through 32-bit words, and none of those
// may lie outside.
func TestRingsAtTheEndOfMemory(t *testing.T) {
	ram := make([]byte, 4096)
	mem, err := memory.NewSpace(memory.Region{Base: 0, Bytes: ram})
	if err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]queue.Config{
		"avail": {Size: 1, Desc: 0, Driver: 4096 - 8, Device: 1024},
		"used":  {Size: 1, Desc: 0, Driver: 1024, Device: 4096 - 16},
	} {
		q, err := queue.New(mem, cfg)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := q.Pop(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestQueueGoesOnWhereAnotherEnded(t *testing.T) {
	p := newPair(t, 4)
	p.forward(t, 3)
	p.SubmitHead(0)
	p.pop(t) // taken, and never given back
	p.Config.Start = p.dev.Used()
	if p.Config.Start != 3 {
		t.Fatalf("used index %d, want 3", p.Config.Start)
	}
	p.dev = device(t, p.d, p.Queue)
	p.dev.Push(p.pop(t))
	if head, _ := p.Used(); head != 0 || p.dev.Used() != 4 {
		t.Errorf("head %d, index %d", head, p.dev.Used())
	}
	if c, err := p.dev.Pop(); c != nil || err != nil {
		t.Errorf("there is no more: %v, %v", c, err)
	}
}
