package rng

import (
	"crypto/rand"

	"github.com/huskvm/husk/vmm/virtio/queue"
)

// maxFill bounds the work of one request; the driver is told how much it got, and asks again.
const maxFill = 64 << 10

func fill(c *queue.Chain) error {
	if c.ReadableLen() > 0 {
		return queue.Offence("entropy request with a readable buffer") // §5.4.6.1
	}
	if c.WritableLen() == 0 {
		return queue.Offence("entropy request without room")
	}
	left := uint64(maxFill)
	for _, seg := range c.Writable() {
		seg = seg[:min(left, uint64(len(seg)))]
		_, _ = rand.Read(seg) // is always complete and without error
		left -= uint64(len(seg))
	}
	c.Filled(maxFill - left)
	return nil
}
