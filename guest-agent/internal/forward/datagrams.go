package forward

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/huskvm/husk/guest-agent/internal/stream"
	"github.com/huskvm/husk/proto/datagram"
)

// peers of a server are as many as a busy one has, for as long as one that is asked only once may take to answer.
var peers = datagram.Limits{Peers: 1024, Idle: 90 * time.Second}

// Datagrams opens the stream with the id, and lets the peers that it brings talk with what is at an address of the
// guest, until the stream ends.
func Datagrams(ctx context.Context, open stream.Dial, to netip.AddrPort, id string) error {
	remote, err := stream.Open(ctx, open, id)
	if err != nil {
		return err
	}
	go func() {
		_ = datagram.Scatter(remote, peers, func() (*net.UDPConn, error) {
			return net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
		})
	}()
	return nil
}
