package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/huskvm/husk/guest-agent/internal/stream"
	"github.com/huskvm/husk/proto/datagram"
)

const (
	namePort = 53
	// maxConns is how many connections a name server has at a time. What comes beyond is closed.
	maxConns = 32
	openTime = 10 * time.Second
)

// askers wait for an answer for no longer than resolv.conf(5) lets them.
var askers = datagram.Limits{Peers: 256, Idle: 30 * time.Second}

// Names listens at an address of the guest for those who ask for names. The host answers: datagrams by one stream, which
// is open when this returns, and each connection by another.
func Names(ctx context.Context, open stream.Dial, ip netip.Addr, packets, connections string) error {
	at := netip.AddrPortFrom(ip, namePort)
	socket, err := datagram.Listen("udp4", at)
	if err != nil {
		return fmt.Errorf("be the name server %s: %w", ip, err)
	}
	listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return fmt.Errorf("be the name server %s: %w", ip, errors.Join(err, socket.Close()))
	}
	remote, err := stream.Open(ctx, open, packets)
	if err != nil {
		return errors.Join(err, socket.Close(), listener.Close())
	}
	go func() {
		_ = datagram.Gather(socket, remote, askers)
		_ = listener.Close() // the host has gone
	}()
	go acceptAskers(listener, open, connections)
	return nil
}

func acceptAskers(l *net.TCPListener, open stream.Dial, id string) {
	slots := make(chan struct{}, maxConns)
	for {
		conn, err := l.AcceptTCP()
		if err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			_ = conn.Close()
			continue
		}
		go func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(context.Background(), openTime)
			defer cancel()
			remote, err := stream.Open(ctx, open, id)
			if err != nil {
				_ = conn.Close()
				return
			}
			join(conn, remote)
		}()
	}
}
