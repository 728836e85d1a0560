package queue

import "encoding/binary"

// walk follows the chain from its head and fills in the segments (virtio 1.2 §2.7.5).
func (q *Queue) walk(c *Chain) error {
	table, limit := q.desc, int(q.cfg.Size)
	indirect := false
	for i, n := c.head, 0; ; n++ {
		if int(i) >= len(table)/descSize {
			return Offence("descriptor %d of a table of %d", i, len(table)/descSize)
		}
		if n >= limit {
			return Offence("chain at %d is longer than %d descriptors or loops", c.head, limit)
		}
		// Once, into memory of ours: the guest may change it while we look.
		copy(q.descScratch[:], table[int(i)*descSize:])
		addr := binary.LittleEndian.Uint64(q.descScratch[0:])
		size := binary.LittleEndian.Uint32(q.descScratch[8:])
		flags := binary.LittleEndian.Uint16(q.descScratch[12:])
		next := binary.LittleEndian.Uint16(q.descScratch[14:])

		if flags&descIndirect != 0 {
			switch {
			case !q.cfg.Indirect:
				return Offence("indirect descriptor that was not negotiated")
			case indirect:
				return Offence("indirect descriptor in an indirect table")
			case flags&descNext != 0:
				return Offence("indirect descriptor with a next one")
			case size == 0 || size%descSize != 0 || size/descSize > maxChain:
				return Offence("indirect table of %d bytes", size)
			}
			t, err := q.mem.Slice(addr, uint64(size))
			if err != nil {
				return Offence("indirect table: %v", err)
			}
			table, limit, indirect = t, len(t)/descSize, true
			i, n = 0, -1
			continue
		}
		seg, err := q.mem.Slice(addr, uint64(size))
		if err != nil {
			return Offence("descriptor %d: %v", i, err)
		}
		if err := c.add(seg, flags&descWrite != 0); err != nil {
			return err
		}
		if flags&descNext == 0 {
			return nil
		}
		i = next
	}
}
