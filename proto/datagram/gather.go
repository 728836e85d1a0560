package datagram

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Listen makes a socket for Gather: of which the kernel tells with each datagram what address it was sent to. The network
// is "udp4" or "udp6".
func Listen(network string, at netip.AddrPort) (*net.UDPConn, error) {
	level, option := unix.IPPROTO_IP, unix.IP_PKTINFO
	if network == "udp6" {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
	}
	// Before it is bound: of what has come already the kernel doesn't know it.
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		controlErr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) })
		return errors.Join(controlErr, err)
	}}
	c, err := config.ListenPacket(context.Background(), network, at.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil
}

// Gather passes to the stream what peers send to a socket of Listen, and back to them what the stream brings. It returns
// when either has ended, and has closed both.
func Gather(socket *net.UDPConn, stream io.ReadWriteCloser, limits Limits) error {
	g := &gatherer{socket: socket, limits: limits, numbers: map[peer]uint32{}, peers: map[uint32]*record{}}
	ended := make(chan error, 1)
	go func() {
		ended <- g.answer(stream)
		_ = socket.Close()
	}()
	err := g.gather(stream)
	_, _ = socket.Close(), stream.Close()
	if answered := <-ended; errors.Is(err, net.ErrClosed) {
		err = answered
	}
	return err
}

// peer is who sends, and to which of the socket's addresses: the answer comes from there.
type peer struct {
	from netip.AddrPort
	to   netip.Addr
}

type record struct {
	peer
	control []byte // makes the kernel send from there
	last    time.Time
}

type gatherer struct {
	socket *net.UDPConn
	limits Limits

	mu      sync.Mutex
	numbers map[peer]uint32
	peers   map[uint32]*record
	last    uint32 // number
}

func (g *gatherer) gather(stream io.Writer) error {
	f := new(frame)
	control := make([]byte, unix.CmsgSpace(unix.SizeofInet6Pktinfo))
	for {
		n, c, _, from, err := g.socket.ReadMsgUDPAddrPort(f.room(), control)
		if err != nil {
			return err
		}
		number := g.number(peer{from, destination(control[:c])})
		if _, err := stream.Write(f.whole(n, number)); err != nil {
			return err
		}
	}
}

// destination is the socket's address that a datagram was sent to; none when that is not one's own.
func destination(control []byte) netip.Addr {
	if len(control) < unix.SizeofCmsghdr {
		return netip.Addr{}
	}
	header, data, _, err := unix.ParseOneSocketControlMessage(control)
	var ip netip.Addr
	switch {
	case err != nil:
	case header.Level == unix.IPPROTO_IP && header.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
		ip = netip.AddrFrom4([4]byte(data[4:8])) // not where it was sent to, which may be everybody
	case header.Level == unix.IPPROTO_IPV6 && header.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
		ip = netip.AddrFrom16([16]byte(data[:16]))
	}
	if ip.IsMulticast() {
		return netip.Addr{}
	}
	return ip
}

// source makes the kernel send from an address.
func source(ip netip.Addr) []byte {
	switch {
	case ip.Is4():
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: ip.As4()})
	case ip.Is6():
		return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: ip.As16()})
	}
	return nil
}

// number is the peer's, which has one from now on.
func (g *gatherer) number(p peer) uint32 {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if n, ok := g.numbers[p]; ok {
		g.peers[n].last = now
		return n
	}
	if len(g.peers) >= g.limits.Peers {
		g.makeRoom(now)
	}
	for {
		g.last++
		if g.peers[g.last] == nil {
			break
		}
	}
	g.numbers[p] = g.last
	g.peers[g.last] = &record{peer: p, control: source(p.to), last: now}
	return g.last
}

// makeRoom forgets who has been silent for too long, or for longest. The caller holds mu.
func (g *gatherer) makeRoom(now time.Time) {
	var oldest uint32
	for n, r := range g.peers {
		if now.Sub(r.last) > g.limits.Idle {
			g.forget(n)
		} else if o := g.peers[oldest]; o == nil || r.last.Before(o.last) {
			oldest = n
		}
	}
	if len(g.peers) >= g.limits.Peers {
		g.forget(oldest)
	}
}

func (g *gatherer) forget(n uint32) {
	delete(g.numbers, g.peers[n].peer)
	delete(g.peers, n)
}

// answer sends to the peers what the stream brings, until that ends.
func (g *gatherer) answer(stream io.Reader) error {
	for r := newReader(stream); ; {
		number, data, err := r.next()
		if err != nil {
			return err
		}
		g.mu.Lock()
		to := g.peers[number]
		if to != nil {
			to.last = time.Now()
		}
		g.mu.Unlock()
		if to != nil {
			_, _, _ = g.socket.WriteMsgUDPAddrPort(data, to.control, to.from) // lost, as datagrams are
		}
	}
}
