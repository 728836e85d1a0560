package vsock

// credit is the flow control of one connection, both ways (virtio 1.2 §5.10.6.3). All counts are of bytes and
// wrap at 2^32.
type credit struct {
	// Towards the guest: its buffer, what of ours it has consumed, what we have sent.
	guestAlloc, guestForwarded, sent uint32

	// From the guest: our buffer, what has arrived, what has left our buffer, what of that the guest knows.
	alloc, received, forwarded, told uint32
}

// heard takes the guest's word. Its count only ever goes forward, by no more than is in flight: anything else is
// an old packet that was overtaken by another of the guest's CPUs, or a lie that would only cheat the guest.
func (c *credit) heard(bufAlloc, fwdCount uint32) {
	c.guestAlloc = bufAlloc
	if fwdCount-c.guestForwarded <= c.sent-c.guestForwarded {
		c.guestForwarded = fwdCount
	}
}

// room is how much may be sent.
func (c *credit) room() uint32 {
	inFlight := c.sent - c.guestForwarded
	if inFlight >= c.guestAlloc {
		return 0
	}
	return c.guestAlloc - inFlight
}

// receive accounts for n bytes of the guest's; false if it had no credit for them.
func (c *credit) receive(n uint32) bool {
	if n > c.alloc-c.pending() {
		return false
	}
	c.received += n
	return true
}

// pending is what has arrived and not yet left.
func (c *credit) pending() uint32 { return c.received - c.forwarded }

// forward says that n bytes have left.
func (c *credit) forward(n uint32) { c.forwarded += min(n, c.pending()) }

// updateDue says that the guest should hear of its new credit. Early enough for a busy sender never to wait, and
// often enough for a waiting one never to starve: it waits only for a buffer that it believes is full.
func (c *credit) updateDue() bool { return c.forwarded-c.told >= c.alloc/4 }

// stamp puts our word into h.
func (c *credit) stamp(h *header) {
	h.bufAlloc, h.fwdCount = c.alloc, c.forwarded
	c.told = c.forwarded
}
