package vsock

import (
	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio/queue"
)

// receiver is the tx queue's worker, from guest to host. It never blocks: what a host doesn't take at once goes
// to its connection's backlog, what a guest doesn't take is bounded and then dropped.
type receiver struct {
	mux  *mux
	head [headerSize]byte
	h    header
	vec  vector

	write func(fd uintptr) bool
	n     int // the result of write
	err   error
}

func newReceiver(m *mux) *receiver {
	r := &receiver{mux: m}
	r.write = func(fd uintptr) bool {
		r.n, r.err = r.vec.writev(fd)
		return true
	}
	return r
}

// handle takes one packet of the guest's.
func (r *receiver) handle(chain *queue.Chain) error {
	if n, _ := chain.Read(r.head[:]); n < headerSize {
		return nil // it has no sender who could be told
	}
	r.h.decode(&r.head)
	m := r.mux

	m.mu.Lock()
	c := m.find(&r.h)
	if c == nil {
		m.mu.Unlock()
		return nil
	}
	reaction := refuse
	if uint64(r.h.size) <= chain.ReadableLen() {
		reaction = c.receive(&r.h)
	} else {
		c.abort()
	}
	if reaction == establish {
		c.established, c.flushing = true, true // until its accepted callback is through
	}
	if reaction != take || r.h.size == 0 {
		a := m.settle(c)
		m.mu.Unlock()
		c.act(a)
		return nil
	}
	flushing := c.flushing
	m.mu.Unlock()

	r.deliver(c, chain, int(r.h.size), flushing)
	return nil
}

// find gives the connection of h; nil if there is none, and then h is answered already. m.mu is held.
func (m *mux) find(h *header) *conn {
	if h.socketType != typeStream || h.srcCID != m.guestCID || h.dstCID != hostCID {
		m.refuse(h)
		return nil
	}
	a := address{guestPort: h.srcPort, hostPort: h.dstPort}
	c := m.table[a]
	switch {
	case c != nil:
		return c
	case h.op != opRequest:
		m.refuse(h)
	default:
		if c = m.add(a, dialling); c == nil {
			m.refuse(h)
			return nil
		}
		c.heard(h.bufAlloc, h.fwdCount)
		c.calling = true
		m.spawn(func() { m.dial(c) })
	}
	return nil
}

// deliver gives data to the host, or to its backlog. Only one writes to a host at a time: this worker, unless c
// is being flushed.
func (r *receiver) deliver(c *conn, chain *queue.Chain, size int, flushing bool) {
	r.n, r.err = 0, nil
	if !flushing {
		r.vec.reset()
		r.vec.add(chain.Readable(), 0, size)
		if err := c.raw.Write(r.write); err != nil {
			r.err = err
		}
		if r.err == unix.EAGAIN {
			r.err = nil
		}
	}
	rest := size - r.n
	if r.err == nil && rest > 0 {
		c.backlog.append(chain.Readable(), r.n, rest)
	}

	m := r.mux
	m.mu.Lock()
	c.forward(uint32(r.n))
	if r.err != nil {
		c.hostDeaf()
	}
	if rest > 0 && !c.flushing {
		if c.deaf || c.released {
			c.backlog.clear()
		} else {
			c.flushing = true
			m.spawn(func() { m.flush(c) })
		}
	}
	a := m.settle(c)
	m.mu.Unlock()
	c.act(a)
}

// flush writes c's backlog to its host, and ends when there is none.
func (m *mux) flush(c *conn) {
	for {
		var n int
		var err error
		p := c.backlog.front()
		if p != nil {
			if n, err = c.write(p); n > 0 {
				c.backlog.consume(n)
			}
		}
		m.mu.Lock()
		c.forward(uint32(n))
		if err != nil {
			c.hostDeaf()
			c.backlog.clear()
		}
		done := c.backlog.front() == nil
		c.flushing = !done
		a := m.settle(c)
		m.mu.Unlock()
		c.act(a)
		if done {
			return
		}
	}
}

// dial connects a guest's connection to the host.
func (m *mux) dial(c *conn) {
	host, err := m.dialer.Dial(m.ctx, c.hostPort)
	raw := rawOf(host, &err)
	m.mu.Lock()
	c.calling = false
	switch {
	case err != nil:
		c.abort()
	case !c.released && !m.stopped:
		c.host, c.raw = host, raw
		c.dialled()
	}
	kept := c.host != nil
	a := m.settle(c)
	m.mu.Unlock()
	if host != nil && !kept {
		_ = host.Close()
	}
	c.act(a)
}
