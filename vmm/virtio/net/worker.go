package net

import (
	"errors"
	"io"
	"log/slog"
	"os"

	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/queue"
)

// transmitter takes packets of the guest to the host (virtio 1.2 §5.1.6.2).
type transmitter struct {
	link     *link
	features uint64
	packet   [maxPacket]byte
}

// send copies the packet first: the guest could change it between check and use.
func (t *transmitter) send(c *queue.Chain) error {
	n := c.ReadableLen()
	if n < headerSize || c.WritableLen() > 0 {
		return queue.Offence("packet of %d bytes with %d writable", n, c.WritableLen())
	}
	if n == headerSize || n > maxPacket {
		return nil // dropped
	}
	p := t.packet[:n]
	_, _ = io.ReadFull(c, p)
	h := header(p)
	if !h.inOrder(t.features) {
		return nil
	}
	h.setBuffers(0)
	t.link.write(p)
	return nil
}

// receiver takes packets of the host to the guest (§5.1.6.4).
type receiver struct {
	link     *link
	vq       *virtio.Virtqueue
	features uint64
	packet   [maxPacket]byte
	chains   [queueSize]*queue.Chain // taken and not yet returned
	count    int
}

// run takes a packet only when there is a buffer for its beginning: until then it waits, or is lost, in the host.
func (r *receiver) run() error {
	for {
		if err := r.take(); err != nil {
			return err
		}
		n, err := r.link.read(r.packet[:])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil // cancelled
		}
		if err != nil {
			slog.Warn("network interface", "tap", r.link.name, "error", err)
			return nil
		}
		if n <= headerSize {
			continue
		}
		if r.features&featureGuestCsum == 0 {
			header(r.packet[:]).clearFlags() // §5.1.6.4.1
		}
		if err := r.deliver(r.packet[:n]); err != nil {
			return err
		}
	}
}

// take makes sure that there is at least one buffer.
func (r *receiver) take() error {
	if r.count > 0 {
		return nil
	}
	return r.more()
}

func (r *receiver) more() error {
	if r.count == len(r.chains) {
		return queue.Offence("%d receive buffers don't hold a packet", r.count)
	}
	c, err := r.vq.Next()
	if err != nil {
		return err
	}
	r.chains[r.count] = c
	r.count++
	if c.ReadableLen() > 0 || c.WritableLen() < headerSize {
		return queue.Offence("receive buffer of %d bytes with %d readable", c.WritableLen(), c.ReadableLen())
	}
	return nil
}

// deliver puts the packet into one buffer, or with MRG_RXBUF into as many as it takes. Without, a buffer that is
// too small loses the packet and is kept for the next one.
func (r *receiver) deliver(p []byte) error {
	room := r.chains[0].WritableLen()
	if r.features&featureMrgRxbuf == 0 && room < uint64(len(p)) {
		return nil
	}
	for room < uint64(len(p)) {
		if err := r.more(); err != nil {
			return err
		}
		room += r.chains[r.count-1].WritableLen()
	}
	header(p).setBuffers(uint16(r.count))
	chains := r.chains[:r.count]
	for _, c := range chains {
		n, _ := c.Write(p[:min(uint64(len(p)), c.WritableLen())])
		p = p[n:]
	}
	r.vq.Return(chains...)
	clear(chains)
	r.count = 0
	return nil
}
