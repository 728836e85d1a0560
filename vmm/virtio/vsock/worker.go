package vsock

import "github.com/huskvm/husk/vmm/virtio"

// start starts a worker for each of the two queues. The event queue needs none.
func (m *mux) start(a *virtio.Activation) {
	rx, tx := a.Queues[rxQueue], a.Queues[txQueue]
	m.workers.Go(rx, a.Transport, newSender(m, rx).run)
	m.workers.Serve(tx, a.Transport, newReceiver(m).handle)
}
