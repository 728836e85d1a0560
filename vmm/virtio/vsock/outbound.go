package vsock

import (
	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/queue"
)

const (
	burst       = 64 << 10 // most data of one connection before the next one's turn
	burstChains = 16
)

// sender is the rx queue's worker, from host to guest. It alone puts packets in the guest's buffers, so what it
// decides in order arrives in order.
type sender struct {
	mux   *mux
	vq    *virtio.Virtqueue
	held  []*queue.Chain // taken and not used yet
	sizes [burstChains]int
	head  [headerSize]byte
	vec   vector

	read func(fd uintptr) bool
	n    int // the result of read
	err  error
}

func newSender(m *mux, vq *virtio.Virtqueue) *sender {
	s := &sender{mux: m, vq: vq}
	s.read = func(fd uintptr) bool {
		s.n, s.err = s.vec.readv(fd)
		return true
	}
	return s
}

func (s *sender) run() error {
	for {
		if len(s.held) == 0 {
			chain, err := s.vq.Next()
			if err != nil {
				return err
			}
			if err := s.hold(chain); err != nil {
				return err
			}
		}
		h, c, room, ok := s.mux.next()
		switch {
		case !ok:
			return nil
		case c == nil:
			s.put(&h, 0)
		default:
			if err := s.forward(c, room); err != nil {
				return err
			}
		}
	}
}

func (s *sender) hold(chain *queue.Chain) error {
	if chain.WritableLen() <= headerSize {
		return queue.Offence("vsock: rx buffer of %d bytes has no room for a packet", chain.WritableLen())
	}
	s.held = append(s.held, chain)
	return nil
}

// put gives the guest a packet in the first chain held, whose data is there already.
func (s *sender) put(h *header, size int) {
	chain := s.held[0]
	s.held = s.held[:copy(s.held, s.held[1:])]
	h.size = uint32(size)
	h.encode(&s.head)
	_, _ = chain.Write(s.head[:])
	chain.Filled(uint64(size))
	s.vq.Return(chain)
}

// forward reads from c's host into the guest's buffers: one system call for as many packets as there are buffers
// at hand.
func (s *sender) forward(c *conn, room uint32) error {
	want, total, parts := int(min(room, burst)), 0, 0
	s.vec.reset()
	for total < want && parts < burstChains {
		if parts == len(s.held) {
			chain, err := s.vq.TryNext()
			if err != nil {
				return err
			}
			if chain == nil {
				break
			}
			if err := s.hold(chain); err != nil {
				return err
			}
		}
		n := s.vec.add(s.held[parts].Writable(), headerSize, min(want-total, maxPayload))
		if n == 0 {
			break
		}
		s.sizes[parts] = n
		total += n
		parts++
	}
	if err := c.raw.Read(s.read); err != nil {
		s.n, s.err = 0, err
	}
	h, ok := s.mux.read(c, s.n, total, s.err)
	for left, i := s.n, 0; ok && left > 0; i++ {
		n := min(left, s.sizes[i])
		s.put(&h, n)
		left -= n
	}
	return nil
}

// read takes the result of a read of n bytes where total were wanted. True when the n bytes are to be sent, under h.
func (m *mux) read(c *conn, n, total int, err error) (h header, ok bool) {
	m.mu.Lock()
	switch {
	case n > 0:
		if ok = c.sendable(); ok {
			c.sent += uint32(n)
			h.socketType, h.op = typeStream, opData
			c.stamp(&h)
			m.address(&h, c)
		}
		c.readable = n == total
	case err == unix.EAGAIN:
		c.readable = false
	case err == nil:
		c.hostEnded()
	default:
		c.hostEnded()
		c.hostDeaf()
	}
	a := m.settle(c)
	m.mu.Unlock()
	c.act(a)
	return h, ok
}

// await waits for one of events.
func (m *mux) await(c *conn, events int16) {
	got, err := c.wait(events)
	m.mu.Lock()
	c.waiting = false
	if err == nil {
		c.readable = true
		if events == 0 && got&(unix.POLLHUP|unix.POLLERR) != 0 {
			c.hostEnded()
			c.hostDeaf()
		}
	}
	var a action
	if err == nil {
		a = m.settle(c)
	}
	m.mu.Unlock()
	c.act(a)
}
