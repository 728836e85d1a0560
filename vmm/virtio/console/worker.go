package console

import (
	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/queue"
)

// transmit takes what the guest writes (virtio 1.2 §5.3.6).
func (d *Device) transmit(c *queue.Chain, quit <-chan struct{}) error {
	if c.WritableLen() > 0 {
		return queue.Offence("console output with a writable buffer") // §5.3.6.1
	}
	for _, seg := range c.Readable() {
		_, _ = d.ring.Write(seg)
		if d.live != nil {
			d.live.write(seg, quit)
		}
	}
	return nil
}

// receive delivers input as long as there is some and the driver has room for it. What was read but not
// delivered waits for the next activation.
func (d *Device) receive(vq *virtio.Virtqueue, quit <-chan struct{}) error {
	for {
		for len(d.piece) > 0 {
			c, err := vq.Next()
			if err != nil {
				return err
			}
			room := c.WritableLen()
			n, _ := c.Write(d.piece) // short when the buffer is: the rest goes to the next one
			d.piece = d.piece[n:]
			vq.Return(c)
			if room == 0 {
				return queue.Offence("console input buffer without room")
			}
		}
		select {
		case piece, ok := <-d.input.pieces:
			if !ok {
				return nil
			}
			d.piece = piece
		case <-quit:
			return nil
		}
	}
}
