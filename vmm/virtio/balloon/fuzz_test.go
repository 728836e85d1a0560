package balloon

import (
	"encoding/binary"
	"testing"

	"github.com/huskvm/husk/vmm/virtio/queue"
	"github.com/huskvm/husk/vmm/virtio/virtiotest"
)

// FuzzBalloon puts pages named by the input into the balloon, four bytes each, split over two descriptors at an
// odd place. Exactly those of the named pages that are memory may change. What lies beyond the watched pages is
// mapped to page numbers near the ends of memory, of the address space and of nothing.
func FuzzBalloon(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte, split uint16) {
		const watched = 64
		d := virtiotest.NewDriver(t, 1<<20)
		q := d.NewQueue(8)
		pool := d.Alloc(watched * page)
		pfns := make([]byte, 0, len(data))
		named := make(map[uint32]bool)
		for _, v := range data[:min(len(data), 4096)] {
			pfn := uint32(pool>>pfnShift) + uint32(v)
			switch {
			case v < watched:
				named[uint32(v)] = true
			case v < 128:
				pfn = uint32(v) - 100
			default:
				pfn = base + uint32(len(d.RAM)/page) + uint32(v) - 128
			}
			pfns = binary.LittleEndian.AppendUint32(pfns, pfn)
		}
		b := d.Bytes(pool, watched*page)
		for i := range b {
			b[i] = 1
		}
		at := d.Put(pfns)
		cut := uint32(split) % uint32(len(pfns)+1)
		for i, desc := range []virtiotest.Desc{{Addr: at, Len: cut}, {Addr: at + uint64(cut), Len: uint32(len(pfns)) - cut}} {
			q.SetDesc(uint16(i), desc.Addr, desc.Len, uint16(1-i), 1)
		}
		q.SubmitHead(0)
		dq, err := queue.New(d.Memory, q.Config)
		if err != nil {
			t.Fatal(err)
		}
		c, err := dq.Pop()
		if err != nil {
			t.Fatal(err)
		}
		if err := (&inflate{mem: d.Memory}).handle(c); err != nil && len(pfns) > 0 {
			t.Fatal(err)
		}
		for i, gone := range zeroed(t, b) {
			if gone != named[uint32(i)] {
				t.Errorf("page %d: given back %v, named %v", i, gone, named[uint32(i)])
			}
		}
	})
}
