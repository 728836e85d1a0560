package balloon

import (
	"encoding/binary"
	"io"

	"github.com/huskvm/husk/vmm/memory"
	"github.com/huskvm/husk/vmm/virtio/queue"
)

// inflate gives the pages back that the driver puts into the balloon (virtio 1.2 §5.5.6).
type inflate struct {
	mem *memory.Space
	buf [4096]byte
	run run
}

func (f *inflate) handle(c *queue.Chain) error {
	if err := checkPFNs(c); err != nil {
		return err
	}
	for {
		n, err := io.ReadFull(c, f.buf[:])
		for p := f.buf[:n]; len(p) > 0; p = p[4:] {
			if pfn := uint64(binary.LittleEndian.Uint32(p)); !f.run.add(pfn) {
				f.discard()
				f.run.add(pfn)
			}
		}
		if err != nil { // the end
			f.discard()
			return nil
		}
	}
}

// discard gives the run back, as far as it is memory; what is not is the driver's mistake and nobody's loss.
func (f *inflate) discard() {
	lo, hi := f.run.first<<pfnShift, f.run.end<<pfnShift
	for _, r := range f.mem.Regions() {
		from, to := max(lo, r.Base), min(hi, r.Base+uint64(len(r.Bytes)))
		if from < to {
			_ = memory.Discard(r.Bytes[from-r.Base : to-r.Base])
		}
	}
	f.run = run{}
}

// run is consecutive pages. Drivers fill the balloon upwards or downwards; either is one madvise rather than 256.
type run struct {
	first, end uint64 // end is exclusive; equal is empty
}

func (r *run) add(pfn uint64) bool {
	switch {
	case r.first == r.end:
		r.first, r.end = pfn, pfn+1
	case pfn == r.end:
		r.end++
	case pfn+1 == r.first:
		r.first--
	default:
		return false
	}
	return true
}

// deflate is told which pages the driver takes back. They are there whenever it touches them.
func deflate(c *queue.Chain) error { return checkPFNs(c) }

func checkPFNs(c *queue.Chain) error {
	if n := c.ReadableLen(); n == 0 || n%4 != 0 || n > 4*maxPFNs {
		return queue.Offence("balloon request of %d bytes", n)
	}
	return nil
}

// report gives the memory back that the driver has free (§5.5.6.7): every writable buffer is a range of it. Not
// if the driver expects to find its poison there: what is given back reads as zero.
func report(c *queue.Chain, give bool) error {
	if c.ReadableLen() > 0 {
		return queue.Offence("free page report with a readable buffer")
	}
	if !give {
		return nil
	}
	for _, seg := range c.Writable() {
		_ = memory.Discard(seg)
	}
	return nil
}
