package queue_test

import (
	"errors"
	"reflect"
	"testing"

	"github.com/huskvm/husk/vmm/virtio/queue"
	"github.com/huskvm/husk/vmm/virtio/virtiotest"
)

// FuzzQueue lays the descriptor table, and an area for indirect tables, out of descs, and then does what ops say:
// the driver's and the device's side at once, and changes of the memory while chains are out. Whatever happens,
// nothing panics, an error is an offence, and every byte of a chain is memory.
//
// A descriptor is six bytes: where, how long, flags, next; see descriptor. The first byte of ops is the set-up.
func FuzzQueue(f *testing.F) {
	f.Fuzz(func(t *testing.T, descs, ops []byte) {
		if len(ops) == 0 {
			return
		}
		m := &machine{t: t, d: virtiotest.NewDriver(t, 32<<10)}
		setup := ops[0]
		m.q = m.d.NewQueue(1 << (setup % 6))
		m.q.Config.EventIdx = setup&0x40 != 0
		m.q.Config.Indirect = setup&0x80 == 0
		m.indirect = m.d.Alloc(64 * 16)
		m.dev = device(t, m.d, m.q)
		for i := 0; len(descs) >= 6 && i < 128; i, descs = i+1, descs[6:] {
			m.descriptor(i, descs)
		}
		for ops = ops[1:]; len(ops) >= 2; ops = ops[2:] {
			if !m.step(ops[0], ops[1]) {
				return
			}
		}
	})
}

type machine struct {
	t        *testing.T
	d        *virtiotest.Driver
	q        *virtiotest.Queue
	dev      *queue.Queue
	indirect uint64 // a table of 64
	out      []*queue.Chain
	idx      uint16
}

// descriptor writes entry i: the first ones are the queue's table, the ones behind it the indirect table.
func (m *machine) descriptor(i int, b []byte) {
	size := int(m.q.Config.Size)
	addr := uint64(virtiotest.Base) + uint64(b[0])<<7 + uint64(b[1]&0x1f)
	switch b[1] >> 5 {
	case 1:
		addr = m.indirect + uint64(b[0]%64)*16
	case 2:
		addr = uint64(virtiotest.Base) + 32<<10 - uint64(b[0])
	case 3:
		addr = -uint64(b[0])
	}
	n := uint32(b[2])
	switch b[3] & 3 {
	case 1:
		n *= 16
	case 2:
		n <<= 24
	}
	if i < size {
		m.q.SetDesc(uint16(i), addr, n, uint16(b[4]&7), uint16(b[5]))
		return
	}
	// SetDesc reaches only the table it belongs to; the format is the same.
	t := *m.q
	t.Config.Desc = m.indirect
	t.SetDesc(uint16((i-size)%64), addr, n, uint16(b[4]&7), uint16(b[5]))
}

func (m *machine) step(op, arg byte) bool {
	switch op % 10 {
	case 0:
		m.idx++
		m.q.SubmitHead(uint16(arg) % (m.q.Config.Size + 1))
	case 1:
		m.idx += uint16(arg)
		m.q.SetAvailIndex(m.idx)
	case 2:
		c, err := m.dev.Pop()
		if err != nil {
			var guest *queue.GuestError
			if !errors.As(err, &guest) {
				m.t.Fatalf("not an offence: %v", err)
			}
			return false // the queue must not be used any more
		}
		if c != nil {
			m.inspect(c)
			m.out = append(m.out, c)
		}
	case 3:
		if len(m.out) > 0 {
			i := int(arg) % len(m.out)
			m.dev.Push(m.out[i])
			m.out = append(m.out[:i], m.out[i+1:]...)
		}
	case 4:
		m.dev.EnableKicks()
	case 5:
		m.dev.DisableKicks()
	case 6, 7:
		m.use(op%10 == 6, int(arg))
	case 8:
		m.q.SetUsedEvent(uint16(arg))
	case 9: // the driver writes wherever it likes
		m.d.RAM[int(arg)*32%len(m.d.RAM)]++
	}
	return true
}

// use reads or writes the newest chain in one of the two ways there are.
func (m *machine) use(read bool, n int) {
	if len(m.out) == 0 {
		return
	}
	c := m.out[len(m.out)-1]
	left, side := c.ReadableLen(), c.Readable
	if !read {
		left, side = c.WritableLen(), c.Writable
	}
	want := min(left, uint64(n))
	switch p := make([]byte, n); {
	case n%2 == 0 && read:
		_, _ = c.Read(p)
	case n%2 == 0:
		_, _ = c.Write(p)
	case read:
		c.Consumed(uint64(n))
	default:
		c.Filled(uint64(n))
	}
	var sum uint64
	for _, seg := range side() {
		sum += uint64(len(seg))
	}
	if sum != left-want {
		m.t.Fatalf("%d of %d bytes used, %d left", want, left, sum)
	}
}

func (m *machine) inspect(c *queue.Chain) {
	base := reflect.ValueOf(m.d.RAM).Pointer()
	for i, side := range [][][]byte{c.Readable(), c.Writable()} {
		var sum uint64
		for _, seg := range side {
			sum += uint64(len(seg))
			at := reflect.ValueOf(seg).Pointer()
			if len(seg) > 0 && (at < base || at+uintptr(cap(seg)) > base+uintptr(len(m.d.RAM))) {
				m.t.Fatalf("segment of %d bytes outside of memory", len(seg))
			}
		}
		if want := []uint64{c.ReadableLen(), c.WritableLen()}[i]; sum != want {
			m.t.Fatalf("segments of %d bytes, length %d", sum, want)
		}
	}
	if n := len(c.Readable()) + len(c.Writable()); n > int(m.q.Config.Size)+1024 {
		m.t.Fatalf("%d segments", n)
	}
}
