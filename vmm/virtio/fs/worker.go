package fs

import (
	"sync"

	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/queue"
)

// serveHiprio handles FORGET and INTERRUPT, which never wait for a disk, one after the other.
func (d *Device) serveHiprio(vq *virtio.Virtqueue, t virtio.Transport) {
	d.workers.Serve(vq, t, func(c *queue.Chain) error {
		d.server.Handle(c)
		return nil
	})
}

// serveRequests hands the chains of vq to a pool of goroutines, so that a request that waits for a disk holds up
// only those beyond the pool's size. Their order is the guest's business: it sends what depends on a reply after
// the reply.
func (d *Device) serveRequests(vq *virtio.Virtqueue, t virtio.Transport) {
	d.workers.Go(vq, t, func() error {
		work := make(chan *queue.Chain)
		var pool sync.WaitGroup
		defer pool.Wait()
		defer close(work)
		for range d.pool {
			pool.Go(func() {
				for c := range work {
					d.server.Handle(c)
					vq.Return(c)
				}
			})
		}
		for {
			c, err := vq.Next()
			if err != nil {
				return err
			}
			work <- c
		}
	})
}
