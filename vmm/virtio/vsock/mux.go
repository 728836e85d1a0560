package vsock

import (
	"context"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio"
)

// What a guest can make us hold is bounded by these: about 110 MiB of backlog at the very worst, and nothing while
// hosts keep up.
const (
	maxConns   = 1024
	maxResets  = 256 // answers to packets of no connection; more are dropped
	firstConns = 64  // that many have the large buffer, the rest the small one
	largeAlloc = 256 << 10
	smallAlloc = 64 << 10
)

// Ports of ours for connections to the guest.
const (
	firstPort = 1 << 30
	lastPort  = 1<<31 - 1
)

// mux is all connections of one activation.
type mux struct {
	guestCID uint64
	dialer   Host
	ctx      context.Context // ends at stop
	cancel   context.CancelFunc
	workers  virtio.Workers
	wg       sync.WaitGroup

	mu       sync.Mutex
	wake     sync.Cond // the rx worker waits for something to send
	stopped  bool
	table    map[address]*conn  // those the guest knows
	all      map[*conn]struct{} // also those whose end the host has yet to see
	resets   []header
	control  turns // have a packet without data to send
	data     turns // have data to send, and credit
	nextPort uint32
}

func newMux(guestCID uint64, dialer Host) *mux {
	m := &mux{
		guestCID: guestCID,
		dialer:   dialer,
		table:    make(map[address]*conn),
		all:      make(map[*conn]struct{}),
		control:  turns{which: controlQueue},
		data:     turns{which: dataQueue},
		nextPort: firstPort,
	}
	m.wake.L = &m.mu
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m
}

// stop closes every connection and waits for every goroutine.
func (m *mux) stop() {
	m.cancel()
	m.mu.Lock()
	m.stopped = true
	var hosts []Conn
	for c := range m.all {
		c.abort()
		if c.host != nil {
			hosts = append(hosts, c.host)
		}
		c.notify()
	}
	m.wake.Broadcast()
	m.mu.Unlock()
	for _, h := range hosts {
		_ = h.Close()
	}
	m.workers.Stop()
	m.wg.Wait()
}

// spawn runs f in a goroutine that stop waits for. m.mu is held.
func (m *mux) spawn(f func()) {
	if m.stopped {
		return
	}
	m.wg.Add(1)
	go func() {
		defer m.wg.Done()
		f()
	}()
}

// add enters a new connection; nil when there are too many. m.mu is held.
func (m *mux) add(a address, p phase) *conn {
	if len(m.all) >= maxConns || m.stopped {
		return nil
	}
	c := &conn{address: a}
	c.phase = p
	c.alloc = largeAlloc
	if len(m.all) >= firstConns {
		c.alloc = smallAlloc
	}
	m.table[a] = c
	m.all[c] = struct{}{}
	return c
}

// settle draws the consequences of a change of c. m.mu is held; what it returns is for c.act, without the lock.
func (m *mux) settle(c *conn) action {
	a := c.hostward()
	if c.phase == gone {
		if m.table[c.address] == c {
			delete(m.table, c.address)
		}
	}
	if c.phase != requested {
		c.notify()
	}
	m.schedule(c)
	m.forget(c)
	return a
}

// forget drops c once nothing refers to it any more; until then it counts. A guest that takes no packets leaves
// what it opens and resets in the queues for good. m.mu is held.
func (m *mux) forget(c *conn) {
	if c.phase == gone && c.released && !c.calling && !c.queued() {
		delete(m.all, c)
	}
}

// notify ends the wait for the guest's answer.
func (c *conn) notify() {
	if c.accepted != nil {
		close(c.accepted)
		c.accepted = nil
	}
}

// schedule puts c wherever it has something to wait for or to send. m.mu is held.
func (m *mux) schedule(c *conn) {
	ready := c.readable && c.sendable()
	switch {
	case ready && c.room() > 0:
		m.data.push(c)
		m.wake.Signal()
	case ready:
		c.starved = true
	case c.phase == open && c.answered && !c.released && !c.waiting:
		events := int16(0) // nothing to read; but if host hangs up, the guest should know
		if c.sendable() {
			events = unix.POLLIN
		}
		c.waiting = true
		m.spawn(func() { m.await(c, events) })
	}
	if c.due() != opInvalid {
		m.control.push(c)
		m.wake.Signal()
	}
}

// next waits for what is to be sent: a packet without data, or a connection with data and room for it. False
// after stop.
func (m *mux) next() (h header, c *conn, room uint32, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for !m.stopped {
		if n := len(m.resets); n > 0 {
			h = m.resets[0]
			m.resets = m.resets[:copy(m.resets, m.resets[1:])]
			return h, nil, 0, true
		}
		if c := m.control.pop(); c != nil {
			h, ok := c.packet()
			if !ok {
				m.forget(c)
				continue
			}
			m.address(&h, c)
			m.actUnlocked(c, m.settle(c))
			return h, nil, 0, true
		}
		if c := m.data.pop(); c != nil {
			if room := c.room(); room > 0 && c.readable && c.sendable() {
				return header{}, c, room, true
			}
			m.actUnlocked(c, m.settle(c))
			continue
		}
		m.wake.Wait()
	}
	return header{}, nil, 0, false
}

func (m *mux) actUnlocked(c *conn, a action) {
	if a != 0 {
		m.mu.Unlock()
		c.act(a)
		m.mu.Lock()
	}
}

func (m *mux) address(h *header, c *conn) {
	h.srcCID, h.dstCID = hostCID, m.guestCID
	h.srcPort, h.dstPort = c.hostPort, c.guestPort
}

// refuse answers a packet of no connection. A guest that doesn't take its answers loses them. m.mu is held.
func (m *mux) refuse(h *header) {
	reset := resetOf(*h)
	if h.op == opReset || len(m.resets) == maxResets {
		return
	}
	for i := range m.resets {
		if m.resets[i] == reset {
			return
		}
	}
	m.resets = append(m.resets, reset)
	m.wake.Signal()
}
