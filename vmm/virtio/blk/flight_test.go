package blk

import (
	"bytes"
	"sync"
	"testing"
	"time"

	"github.com/huskvm/husk/vmm/virtio/queue"
	"github.com/huskvm/husk/vmm/virtio/virtiotest"
)

// Every queue is filled at once, many times over; each request must be answered, with its own data.
func TestManyRequestsOnManyQueues(t *testing.T) {
	const queues, depth, rounds = 3, 32, 30
	g := start(t, Config{File: image(t, 256), Queues: queues}, allFeatures)
	var slots [queues][depth]struct{ header, room uint64 }
	for q := range slots {
		for i := range slots[q] {
			slots[q][i].header, slots[q][i].room = g.Alloc(headerSize), g.Alloc(sectorSize+1)
		}
	}
	var wg sync.WaitGroup
	for q := range slots {
		wg.Go(func() {
			for round := range rounds {
				want := make(map[uint16]byte)
				for i := range uint16(depth) {
					s, sector := slots[q][i], byte(int(i)*7+round+q)
					copy(g.Bytes(s.header, headerSize), rawHeader(typeIn, uint64(sector)))
					want[3*i] = sector
					g.q[q].Submit(3*i, virtiotest.Desc{Addr: s.header, Len: headerSize},
						virtiotest.Desc{Addr: s.room, Len: sectorSize, Writable: true},
						virtiotest.Desc{Addr: s.room + sectorSize, Len: 1, Writable: true})
				}
				for range depth {
					head, _, err := g.q[q].UsedWithin(10 * time.Second)
					sector, ok := want[head]
					if err != nil || !ok {
						t.Errorf("queue %d: head %d, outstanding %v, %v", q, head, ok, err)
						return
					}
					delete(want, head)
					got := g.Bytes(slots[q][head/3].room, sectorSize+1)
					if !bytes.Equal(got, append(bytes.Repeat([]byte{sector}, sectorSize), statusOK)) {
						t.Errorf("queue %d: wrong data for sector %d", q, sector)
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestResetWhileRequestsComeIn(t *testing.T) {
	dev, err := New(Config{File: image(t, 64)})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	for range 20 {
		d := virtiotest.NewDriver(t, 1<<20)
		q := d.NewQueue(queueSize)
		a, _ := d.Activation(allFeatures, q)
		if err := dev.Activate(a); err != nil {
			t.Fatal(err)
		}
		header, room := d.Put(rawHeader(typeIn, 0)), d.Alloc(64*(sectorSize+1))
		for i := range uint16(64) {
			at := room + uint64(i)*(sectorSize+1)
			q.Submit(3*i, virtiotest.Desc{Addr: header, Len: headerSize}, virtiotest.Desc{Addr: at, Len: sectorSize + 1, Writable: true})
		}
		if err := dev.Reset(); err != nil {
			t.Fatal(err)
		}
		// The memory is the driver's again: the race detector would see a late write.
		clear(d.Bytes(room, 64*(sectorSize+1)))
	}
}

func TestTheHotPathDoesNotAllocate(t *testing.T) {
	dev, err := New(Config{File: image(t, 64)})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	d := virtiotest.NewDriver(t, 1<<20)
	q := d.NewQueue(16)
	dq, err := queue.New(d.Memory, q.Config)
	if err != nil {
		t.Fatal(err)
	}
	r := &request{disk: dev.disk}
	header, room := d.Alloc(headerSize), d.Alloc(8*sectorSize+1)
	chains := map[string]struct {
		kind  uint32
		chain []virtiotest.Desc
	}{
		"read": {typeIn, []virtiotest.Desc{{Addr: header, Len: headerSize}, {Addr: room, Len: 8*sectorSize + 1, Writable: true}}},
		"write": {typeOut, []virtiotest.Desc{{Addr: header, Len: headerSize}, {Addr: room, Len: 8 * sectorSize},
			{Addr: room, Len: 1, Writable: true}}},
	}
	for name, c := range chains {
		copy(d.Bytes(header, headerSize), rawHeader(c.kind, 1))
		got := testing.AllocsPerRun(100, func() {
			q.Submit(0, c.chain...)
			chain, err := dq.Pop()
			if err != nil || r.handle(chain) != nil {
				t.Fatal("request")
			}
			dq.Push(chain)
		})
		if got != 0 {
			t.Errorf("%s: %v allocations a request", name, got)
		}
	}
}

func BenchmarkRead4K(b *testing.B) {
	g := start(b, Config{File: image(b, 64)}, allFeatures)
	header, room := g.Put(rawHeader(typeIn, 8)), g.Alloc(4097)
	b.ReportAllocs()
	for b.Loop() {
		g.q[0].Submit(0, virtiotest.Desc{Addr: header, Len: headerSize}, virtiotest.Desc{Addr: room, Len: 4097, Writable: true})
		g.q[0].Used()
	}
}
