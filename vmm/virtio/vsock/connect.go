package vsock

import (
	"context"
	"fmt"
	"syscall"
)

// rawOf is the descriptor of a connection that was made without error.
func rawOf(host Conn, err *error) syscall.RawConn {
	if *err != nil {
		return nil
	}
	raw, rawErr := host.SyscallConn()
	if rawErr != nil {
		*err = fmt.Errorf("get descriptor of connection: %w", rawErr)
	}
	return raw
}

// connect is Device.Connect.
func (m *mux) connect(ctx context.Context, host Conn, port uint32, accepted func(uint32) error) error {
	c, answer, err := m.request(host, port)
	if err != nil {
		_ = host.Close()
		return err
	}
	select {
	case <-answer:
	case <-ctx.Done():
	}
	m.mu.Lock()
	established := c.established
	if !established {
		err = ErrRefused
		if ctx.Err() != nil {
			err = fmt.Errorf("connect to port %d of the guest: %w", port, ctx.Err())
		}
		m.giveUp(c)
		return err
	}
	m.mu.Unlock()

	if accepted != nil {
		err = accepted(c.hostPort)
	}

	m.mu.Lock()
	c.owed = false
	if err != nil || m.stopped {
		c.flushing = false
		c.backlog.clear()
		m.giveUp(c)
		return err
	}
	m.spawn(func() { m.flush(c) })
	m.mu.Unlock()
	return nil
}

// giveUp resets c. It releases m.mu.
func (m *mux) giveUp(c *conn) {
	c.abort()
	a := m.settle(c)
	m.mu.Unlock()
	c.act(a)
}

// request enters a connection of ours. answer is closed when the guest has answered it, or never will.
func (m *mux) request(host Conn, port uint32) (c *conn, answer <-chan struct{}, err error) {
	raw := rawOf(host, &err)
	if err != nil {
		return nil, nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	a := address{guestPort: port, hostPort: m.nextPort}
	for m.table[a] != nil { // ends: there are far more ports than connections
		a.hostPort = portAfter(a.hostPort)
	}
	m.nextPort = portAfter(a.hostPort)
	if c = m.add(a, requested); c == nil {
		return nil, nil, ErrRefused
	}
	c.host, c.raw = host, raw
	ch := make(chan struct{})
	c.accepted = ch
	m.schedule(c)
	return c, ch, nil
}

func portAfter(port uint32) uint32 {
	if port == lastPort {
		return firstPort
	}
	return port + 1
}
