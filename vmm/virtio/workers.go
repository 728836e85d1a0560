package virtio

import (
	"errors"
	"sync"

	"github.com/huskvm/husk/vmm/virtio/queue"
)

// Workers are the goroutines of one activation: one for each queue. The zero value is ready.
type Workers struct {
	wg     sync.WaitGroup
	queues []*Virtqueue
}

// Serve starts a goroutine that calls handle for each chain of vq, and returns the chain afterwards. An error of
// handle or of the queue ends it; a *GuestError is told to t. A nil vq is a queue left disabled: nothing to do.
func (w *Workers) Serve(vq *Virtqueue, t Transport, handle func(*queue.Chain) error) {
	if vq == nil {
		return
	}
	w.Go(vq, t, func() error {
		for {
			c, err := vq.Next()
			if err != nil {
				return err
			}
			err = handle(c)
			vq.Return(c)
			if err != nil {
				return err
			}
		}
	})
}

// Go starts a goroutine of the device's own over vq, which must end when vq is stopped.
func (w *Workers) Go(vq *Virtqueue, t Transport, run func() error) {
	w.queues = append(w.queues, vq)
	w.wg.Add(1)
	go func() {
		defer w.wg.Done()
		var guest *GuestError
		if err := run(); errors.As(err, &guest) {
			t.Fail(err)
		}
	}()
}

// Stop stops all queues and waits for the goroutines. The zero state again.
func (w *Workers) Stop() {
	for _, vq := range w.queues {
		vq.Stop()
	}
	w.wg.Wait()
	w.queues = nil
}
