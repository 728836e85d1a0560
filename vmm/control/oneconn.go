package control

import (
	"net"
	"sync"
)

// oneConn is a listener that gives out one connection, and is closed when that is.
type oneConn struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	addr   net.Addr
}

func newOneConn(c net.Conn) *oneConn {
	l := &oneConn{conns: make(chan net.Conn, 1), closed: make(chan struct{}), addr: c.LocalAddr()}
	l.conns <- &closingConn{Conn: c, gone: l.stop}
	return l
}

func (l *oneConn) stop() { l.once.Do(func() { close(l.closed) }) }

// Accept implements net.Listener.
func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *oneConn) Close() error { l.stop(); return nil }

// Addr implements net.Listener.
func (l *oneConn) Addr() net.Addr { return l.addr }

// closingConn says when it is closed.
type closingConn struct {
	net.Conn
	gone func()
}

func (c *closingConn) Close() error {
	c.gone()
	return c.Conn.Close()
}
