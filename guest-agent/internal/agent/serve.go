package agent

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/containerd/ttrpc"
	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
)

// Serve answers the calls that come over conn, until the host has gone.
func Serve(ctx context.Context, conn net.Conn, s *Service) error {
	server, err := ttrpc.NewServer()
	if err != nil {
		return fmt.Errorf("make ttrpc server: %w", err)
	}
	agentv1.RegisterAgentService(server, s)
	only := &single{conn: conn, gone: make(chan struct{})}
	go func() {
		<-only.gone
		server.Close()
	}()
	if err := server.Serve(ctx, only); err != nil && !only.ended() {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// single is a listener that accepts one connection and then nothing, until that has ended: the guest dials, so
// there is never another.
type single struct {
	conn     net.Conn
	accepted bool
	once     sync.Once
	gone     chan struct{}
}

func (s *single) Accept() (net.Conn, error) {
	if !s.accepted {
		s.accepted = true
		return &watched{s.conn, s}, nil
	}
	<-s.gone
	return nil, net.ErrClosed
}

func (s *single) Close() error   { return nil }
func (s *single) Addr() net.Addr { return s.conn.LocalAddr() }

func (s *single) end() { s.once.Do(func() { close(s.gone) }) }

func (s *single) ended() bool {
	select {
	case <-s.gone:
		return true
	default:
		return false
	}
}

// watched tells its listener when the connection can't be read any more, whatever the reason: ttrpc would keep
// a broken one open while calls are in flight.
type watched struct {
	net.Conn
	listener *single
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err != nil {
		w.listener.end()
	}
	return n, err
}

func (w *watched) Close() error {
	defer w.listener.end()
	return w.Conn.Close()
}
