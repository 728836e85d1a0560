package queue_test

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/huskvm/husk/vmm/virtio/queue"
	"github.com/huskvm/husk/vmm/virtio/virtiotest"
)

func (p *pair) flags(addr uint64) uint16 { return binary.LittleEndian.Uint16(p.d.Bytes(addr, 2)) }

func (p *pair) availEvent() uint16 { return p.flags(p.Config.Device + 4 + 8*uint64(p.Config.Size)) }

func (p *pair) setAvailFlags(v uint16) {
	binary.LittleEndian.PutUint16(p.d.Bytes(p.Config.Driver, 2), v)
}

// §2.7.7.2: the device must interrupt when the index it has just used is the one the driver named, and only then,
// across the end of the 16 bits too.
func TestInterruptsFollowTheUsedEvent(t *testing.T) {
	p := newPair(t, 4)
	buf := p.d.Alloc(1)
	for used, n := p.forward(t, 1<<16-1000), 0; n < 2000; used, n = used+1, n+1 {
		event := used + uint16(rand.IntN(5)) - 2
		if n%7 == 0 {
			event = uint16(rand.Uint32())
		}
		p.SetUsedEvent(event)
		p.Submit(0, virtiotest.Desc{Addr: buf, Len: 1})
		if got, want := p.dev.Push(p.pop(t)), event == used; got != want {
			t.Fatalf("index %d, event %d: interrupt %v", used, event, got)
		}
	}
}

// A batch interrupts if the index asked for is anywhere in it.
func TestABatchIsUsedAtOnce(t *testing.T) {
	p := newPair(t, 8)
	used := p.forward(t, 1<<16-100)
	for range 20 { // across the wrap-around
		for event := range uint16(6) {
			n := uint16(1 + event%4)
			p.SetUsedEvent(used + event - 1)
			var chains []*queue.Chain
			for i := range n {
				p.Submit(i, virtiotest.Desc{Addr: virtiotest.Base, Len: 1, Writable: true})
				chains = append(chains, p.pop(t))
			}
			want := event >= 1 && event <= n
			if got := p.dev.Push(chains...); got != want {
				t.Fatalf("%d at %d, event %+d: interrupt %v", n, used, int(event)-1, got)
			}
			used += n
			if got := p.flags(p.Config.Device + 2); got != used {
				t.Fatalf("used index %d, want %d", got, used)
			}
		}
	}
}

// §2.7.7.1: without the event index the driver's flag decides.
func TestInterruptsFollowTheFlagWithoutEventIndex(t *testing.T) {
	p := newPair(t, 4)
	p.Config.EventIdx = false
	p.dev = device(t, p.d, p.Queue)
	for _, flag := range []uint16{0, 1, 0, 2} {
		p.setAvailFlags(flag)
		p.Submit(0, virtiotest.Desc{Addr: virtiotest.Base, Len: 1})
		if got, want := p.dev.Push(p.pop(t)), flag&1 == 0; got != want {
			t.Errorf("flags %d: interrupt %v", flag, got)
		}
	}
}

// §2.7.10.2: a device that is about to wait asks for the kick of the next chain, and sees one that came before it asked.
func TestKicksAreAskedForByEventIndex(t *testing.T) {
	p := newPair(t, 4)
	for i := range uint16(10) {
		if p.dev.EnableKicks() {
			t.Fatal("a chain before there was one")
		}
		if p.availEvent() != i {
			t.Fatalf("asks for %d, not %d", p.availEvent(), i)
		}
		p.dev.DisableKicks()
		p.Submit(0, virtiotest.Desc{Addr: virtiotest.Base, Len: 1})
		if !p.dev.EnableKicks() {
			t.Fatal("chain that came in between is not seen")
		}
		p.dev.Push(p.pop(t))
	}
}

func TestKicksAreAskedForByFlagWithoutEventIndex(t *testing.T) {
	p := newPair(t, 4)
	p.Config.EventIdx = false
	p.dev = device(t, p.d, p.Queue)
	p.dev.DisableKicks()
	if p.flags(p.Config.Device) != 1 {
		t.Error("NO_NOTIFY is not set")
	}
	p.dev.EnableKicks()
	if p.flags(p.Config.Device) != 0 {
		t.Error("NO_NOTIFY is still set")
	}
	if p.availEvent() != 0 {
		t.Error("the event index is written though it was not negotiated")
	}
}

// Chains go back from many goroutines while one takes new ones; each head must be used exactly once, and the
// flags field beside the used index must keep what the taking goroutine writes.
func TestPushFromManyGoroutines(t *testing.T) {
	for _, eventIdx := range []bool{true, false} {
		p := newPair(t, 64)
		p.Config.EventIdx = eventIdx
		p.dev = device(t, p.d, p.Queue)
		buf := p.d.Alloc(64)
		const rounds = 200
		chains := make(chan *queue.Chain)
		var wg sync.WaitGroup
		var round sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for c := range chains {
					c.Filled(c.WritableLen())
					p.dev.Push(c)
					round.Done()
				}
			})
		}
		for range rounds {
			round.Add(64)
			for i := range uint16(64) {
				p.Submit(i, virtiotest.Desc{Addr: buf, Len: uint32(i), Writable: true})
			}
			for range 64 {
				p.dev.DisableKicks()
				chains <- p.pop(t)
				p.dev.EnableKicks()
			}
			round.Wait()
			var seen [64]bool
			for range 64 {
				head, n := p.Used()
				if seen[head] || n != uint32(head) {
					t.Fatalf("head %d, length %d, seen before: %v", head, n, seen[head])
				}
				seen[head] = true
			}
		}
		close(chains)
		wg.Wait()
		if !eventIdx && p.flags(p.Config.Device) != 0 {
			t.Error("the flags beside the used index were lost")
		}
	}
}

func TestPopAndPushDoNotAllocate(t *testing.T) {
	p := newPair(t, 16)
	in, out := p.d.Alloc(4096), p.d.Alloc(4096)
	addr, size := p.table(entry{in, 64, flagNext, 1}, entry{in, 4000, flagNext, 2}, entry{out, 4096, flagWrite, 0})
	got := testing.AllocsPerRun(1000, func() {
		var header [16]byte
		p.Submit(0, virtiotest.Desc{Addr: in, Len: 64}, virtiotest.Desc{Addr: out, Len: 64, Writable: true})
		p.SetDesc(8, addr, size, flagIndirect, 0)
		p.SubmitHead(8)
		for range 2 {
			c, err := p.dev.Pop()
			if err != nil || c == nil {
				t.Fatal("no chain")
			}
			_, _ = c.Read(header[:])
			_, _ = c.Write(header[:])
			c.Consumed(c.ReadableLen())
			c.Filled(c.WritableLen())
			p.dev.Push(c)
		}
		p.dev.EnableKicks()
	})
	if got != 0 {
		t.Errorf("%v allocations", got)
	}
}

func BenchmarkPopPush(b *testing.B) {
	p := newPair(b, 256)
	in, out := p.d.Alloc(64), p.d.Alloc(4096)
	p.set(entry{in, 64, flagNext, 1}, entry{out, 4096, flagWrite, 0})
	b.ReportAllocs()
	for idx := uint16(1); b.Loop(); idx++ {
		p.SetAvailIndex(idx) // every slot of the ring is zero: the chain at 0
		c, err := p.dev.Pop()
		if err != nil || c == nil {
			b.Fatal("no chain")
		}
		c.Filled(4096)
		p.dev.Push(c)
	}
}
