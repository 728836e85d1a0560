// Package forward connects streams of the host with what listens at TCP ports of the guest. It is called by package
// agent, for what is dialled on the host in the guest's stead.
package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/huskvm/husk/guest-agent/internal/stream"
	"golang.org/x/sys/unix"
)

// dialTime is for a listener that does not take its connections.
const dialTime = 10 * time.Second

// Connect dials an address of the guest, opens the stream with the id, and lets the two talk until both have ended.
// It returns when they are connected; on error there is neither.
func Connect(ctx context.Context, open stream.Dial, to netip.AddrPort, id string) error {
	local, err := dial(ctx, to)
	if err != nil {
		return err
	}
	remote, err := stream.Open(ctx, open, id)
	if err != nil {
		_ = local.Close()
		return err
	}
	go join(local, remote)
	return nil
}

// dial tries IPv6's loopback when nobody listens at IPv4's: who says localhost means either.
func dial(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: dialTime}
	conn, err := d.DialContext(ctx, "tcp", to.String())
	if errors.Is(err, unix.ECONNREFUSED) && to.Addr() == netip.AddrFrom4([4]byte{127, 0, 0, 1}) {
		if six, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(netip.IPv6Loopback(), to.Port()).String()); err == nil {
			return six.(*net.TCPConn), nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", to, err)
	}
	return conn.(*net.TCPConn), nil
}

// join copies both ways. The end of one direction is told to the other side; a failure ends both.
func join(a, b stream.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		pass(a, b)
	}()
	pass(b, a)
	<-done
	_, _ = a.Close(), b.Close()
}

func pass(to, from stream.Conn) {
	if err := stream.Copy(to, from); err != nil {
		past := time.Unix(1, 0)
		_, _ = to.SetDeadline(past), from.SetDeadline(past)
		return
	}
	_ = to.CloseWrite()
}
