package queue

import "io"

// Chain is one request: what the driver wrote for the device, then room for the device's answer. Reading and
// writing consume it from the front. It is valid until it is pushed.
type Chain struct {
	head     uint16
	readable segments
	writable segments
	written  uint32
}

// Readable is what is left to read. The bytes are the guest's and may change under the reader.
func (c *Chain) Readable() [][]byte { return c.readable.left() }

// Writable is the room that is left. Whoever fills it directly says so with Filled.
func (c *Chain) Writable() [][]byte { return c.writable.left() }

// ReadableLen is the number of bytes left to read.
func (c *Chain) ReadableLen() uint64 { return c.readable.size }

// WritableLen is the number of bytes left to write.
func (c *Chain) WritableLen() uint64 { return c.writable.size }

// Written is the number of bytes written so far; the driver is told at the end.
func (c *Chain) Written() uint32 { return c.written }

// Read copies from the readable part. io.EOF when nothing is left.
func (c *Chain) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n := 0
	for n < len(p) && c.readable.size > 0 {
		k := copy(p[n:], c.readable.list[c.readable.next])
		c.readable.advance(uint64(k))
		n += k
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Write copies to the writable part. io.ErrShortWrite when there is too little room.
func (c *Chain) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) && c.writable.size > 0 {
		k := copy(c.writable.list[c.writable.next], p[n:])
		c.writable.advance(uint64(k))
		n += k
	}
	c.written += uint32(n)
	if n < len(p) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

// Consumed says that n bytes of Readable were used directly. At most ReadableLen.
func (c *Chain) Consumed(n uint64) { c.readable.advance(n) }

// Filled says that n bytes of Writable were written directly. At most WritableLen.
func (c *Chain) Filled(n uint64) {
	c.written += uint32(c.writable.advance(n))
}

func (c *Chain) add(seg []byte, writable bool) error {
	switch {
	case writable:
		c.writable.add(seg)
	case len(c.writable.list) > 0:
		return Offence("a readable descriptor after a writable one") // virtio 1.2 §2.7.4.2
	default:
		c.readable.add(seg)
	}
	if c.readable.size+c.writable.size > 1<<32-1 {
		return Offence("chain of more than 4 GiB")
	}
	return nil
}

func (c *Chain) reset(head uint16) {
	c.head, c.written = head, 0
	c.readable.reset()
	c.writable.reset()
}

// segments is a list of byte slices that is consumed from the front, and whose storage is used again.
type segments struct {
	list [][]byte
	next int
	size uint64 // of what is left
}

func (s *segments) add(seg []byte) {
	s.list = append(s.list, seg)
	s.size += uint64(len(seg))
}

func (s *segments) left() [][]byte { return s.list[s.next:] }

func (s *segments) reset() {
	clear(s.list)
	s.list, s.next, s.size = s.list[:0], 0, 0
}

func (s *segments) advance(n uint64) uint64 {
	n = min(n, s.size)
	s.size -= n
	for left := n; s.next < len(s.list); s.next++ {
		seg := s.list[s.next]
		if left < uint64(len(seg)) {
			s.list[s.next] = seg[left:]
			break
		}
		left -= uint64(len(seg))
	}
	return n
}
