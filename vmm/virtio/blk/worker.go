package blk

import (
	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/queue"
)

// inFlight is how many requests of one queue are worked on at once, so that a slow one doesn't hold up the rest.
const inFlight = 8

// crew is the workers of one queue. The one whose turn it is waits for the next request; having it, it gives the
// turn away and carries the request out itself. So no request changes hands.
type crew struct {
	vq   *virtio.Virtqueue
	turn chan struct{} // closed when there will be no more requests
}

func (d *Device) serve(vq *virtio.Virtqueue, a *virtio.Activation) {
	if vq == nil {
		return
	}
	c := &crew{vq: vq, turn: make(chan struct{}, 1)}
	c.turn <- struct{}{}
	for range inFlight {
		r := &request{writeThrough: a.Features&featureFlush == 0} // §5.2.6.2
		d.workers.Go(vq, a.Transport, func() error { return c.work(d, r) })
	}
}

func (c *crew) work(d *Device, r *request) error {
	for range c.turn {
		chain, err := c.vq.Next()
		if err != nil {
			close(c.turn)
			return err
		}
		c.turn <- struct{}{}
		err = d.handle(r, chain)
		c.vq.Return(chain)
		if err != nil {
			c.vq.Stop() // whoever waits ends the others
			return err
		}
	}
	return nil
}

// handle carries a request out on the disk that is there at its beginning.
func (d *Device) handle(r *request, chain *queue.Chain) error {
	d.media.RLock()
	defer d.media.RUnlock()
	r.disk = d.disk
	return r.handle(chain)
}
