package datagram

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var ample = Limits{Peers: 100, Idle: time.Minute}

// listen is a socket at an address, where every port is free.
func listen(t testing.TB, network, ip string) (*net.UDPConn, netip.AddrPort) {
	t.Helper()
	c, err := Listen(network, netip.AddrPortFrom(netip.MustParseAddr(ip), 0))
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) {
		t.Skip("no IPv6 here: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	at := c.LocalAddr().(*net.UDPAddr).AddrPort()
	return c, netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// server answers in upper case, and to who says so with nothing at all.
func server(t testing.TB, network, ip string) netip.AddrPort {
	t.Helper()
	c, at := listen(t, network, ip)
	go func() {
		buf := make([]byte, maxSize)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(bytes.ToUpper(buf[:n]), from)
		}
	}()
	return at
}

// to makes sockets that are connected with an address.
func to(address netip.AddrPort) func() (*net.UDPConn, error) {
	return func() (*net.UDPConn, error) { return net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(address)) }
}

// relay lets a server answer at another address.
func relay(t *testing.T, network, ip string, server netip.AddrPort, near, far Limits) netip.AddrPort {
	t.Helper()
	socket, at := listen(t, network, ip)
	a, b := net.Pipe()
	ended := make(chan error, 2)
	go func() { ended <- Gather(socket, a, near) }()
	go func() { ended <- Scatter(b, far, to(server)) }()
	t.Cleanup(func() {
		_ = socket.Close()
		<-ended
		<-ended
	})
	return at
}

// check asks once.
func check(t *testing.T, c *net.UDPConn, question []byte) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Write(question); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, maxSize)
	n, err := c.Read(answer)
	if err != nil || !bytes.Equal(answer[:n], bytes.ToUpper(question)) {
		t.Fatalf("%d bytes, %v, for %d", n, err, len(question))
	}
}

func dial(t *testing.T, at netip.AddrPort) *net.UDPConn {
	t.Helper()
	c, err := to(at)()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestEachPeerGetsItsOwnAnswers(t *testing.T) {
	for network, ip := range map[string]string{"udp4": "127.0.0.1", "udp6": "::1"} {
		t.Run(network, func(t *testing.T) {
			at := relay(t, network, ip, server(t, network, ip), ample, ample)
			a, b := dial(t, at), dial(t, at)
			for _, size := range []int{0, 1, 1400, 8192, 65507} {
				check(t, a, bytes.Repeat([]byte("a"), size))
				check(t, b, bytes.Repeat([]byte("b"), size))
			}
		})
	}
}

func TestAnswersComeFromTheAddressThatWasAsked(t *testing.T) {
	at := relay(t, "udp4", "0.0.0.0", server(t, "udp4", "127.0.0.1"), ample, ample)
	for _, ip := range []string{"127.0.0.1", "127.5.6.7"} { // a connected socket takes answers of its peer alone
		check(t, dial(t, netip.AddrPortFrom(netip.MustParseAddr(ip), at.Port())), []byte("from "+ip))
	}
}

// Who sends before anybody looks is the same peer afterwards.
func TestWhatCameEarlyIsOfTheSamePeer(t *testing.T) {
	socket, at := listen(t, "udp4", "0.0.0.0")
	c := dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), at.Port()))
	if _, err := c.Write([]byte("early")); err != nil {
		t.Fatal(err)
	}
	a, b := net.Pipe()
	go func() { _ = Gather(socket, a, ample) }()
	defer b.Close()
	r := newReader(b)
	first, _, err := r.next()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("late")); err != nil {
		t.Fatal(err)
	}
	if second, data, err := r.next(); err != nil || second != first || string(data) != "late" {
		t.Errorf("peer %d, then %d, %q, %v", first, second, data, err)
	}
}

func TestThePeersAreBoundedAndTheNextOnesServed(t *testing.T) {
	for _, limits := range [][2]Limits{{{Peers: 3, Idle: time.Minute}, ample}, {ample, {Peers: 3, Idle: time.Minute}}} {
		at := relay(t, "udp4", "127.0.0.1", server(t, "udp4", "127.0.0.1"), limits[0], limits[1])
		var clients []*net.UDPConn
		for range 10 {
			clients = append(clients, dial(t, at))
			check(t, clients[len(clients)-1], []byte("hello"))
		}
		for _, c := range slices.Backward(clients) {
			check(t, c, []byte("again"))
		}
	}
}

func TestASilentPeersSocketIsClosed(t *testing.T) {
	s := &scatterer{stream: discard{}, limits: Limits{Peers: 3, Idle: 10 * time.Millisecond}, sockets: map[uint32]*socket{}}
	conn, err := to(server(t, "udp4", "127.0.0.1"))()
	if err != nil {
		t.Fatal(err)
	}
	s.add(1, conn)
	s.running.Wait()
	if _, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) || len(s.sockets) > 0 {
		t.Errorf("%v, %d sockets", err, len(s.sockets))
	}
}

// Who is not there when it is asked may come later.
func TestAServerThatIsNotThereYet(t *testing.T) {
	l, address := listen(t, "udp4", "127.0.0.1")
	_ = l.Close()
	at := relay(t, "udp4", "127.0.0.1", address, ample, ample)
	c := dial(t, at)
	for range 3 {
		if _, err := c.Write([]byte("anybody?")); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(address))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := l.ReadFrom(buf)
			if err != nil {
				return
			}
			if string(buf[:n]) == "hello" {
				_, _ = l.WriteTo([]byte("HELLO"), from)
			}
		}
	}()
	check(t, c, []byte("hello"))
}

// discard is a stream that takes everything and brings nothing.
type discard struct{}

func (discard) Read([]byte) (int, error)    { return 0, io.EOF }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) Close() error                { return nil }

// scripted is a stream that brings some bytes.
type scripted struct {
	io.Reader
	discard
}

func (s scripted) Read(p []byte) (int, error) { return s.Reader.Read(p) }

func seeds(f *testing.F) {
	g := new(frame)
	f.Add([]byte{})
	f.Add(bytes.Clone(g.whole(0, 0)))
	f.Add(slices.Concat(g.whole(3, 1), g.whole(5, 1<<31)))
	f.Add(bytes.Clone(g.whole(5, 7)[:headerSize+2]))
	f.Add(bytes.Clone(g.whole(maxSize, 9)))
}

// Whatever the stream brings, there are no more sockets than may be, and none are left.
func FuzzScatter(f *testing.F) {
	seeds(f)
	at := server(f, "udp4", "127.0.0.1")
	f.Fuzz(func(t *testing.T, text []byte) {
		var open []*net.UDPConn
		limits := Limits{Peers: 2, Idle: time.Minute}
		err := Scatter(scripted{Reader: bytes.NewReader(text)}, limits, func() (*net.UDPConn, error) {
			c, err := to(at)()
			open = append(open, c)
			return c, err
		})
		if err == nil {
			t.Error("there is no end without a reason")
		}
		for _, c := range open {
			if _, err := c.Write(nil); !errors.Is(err, net.ErrClosed) {
				t.Errorf("a socket is left: %v", err)
			}
		}
	})
}

// Whatever the stream brings, only who has asked is answered.
func FuzzGather(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		socket, _ := listen(t, "udp4", "127.0.0.1")
		stranger, at := listen(t, "udp4", "127.0.0.1")
		g := &gatherer{socket: socket, limits: ample, numbers: map[peer]uint32{}, peers: map[uint32]*record{}}
		number := g.number(peer{from: at})
		if err := g.answer(bytes.NewReader(text)); err == nil {
			t.Error("there is no end without a reason")
		}
		expected := 0
		for r := newReader(bytes.NewReader(text)); ; {
			n, data, err := r.next()
			if err != nil {
				break
			}
			if n == number && len(data) <= 65507 {
				expected++
			}
		}
		_ = stranger.SetReadDeadline(time.Now().Add(time.Millisecond))
		buf := make([]byte, maxSize)
		for got := 0; ; got++ {
			if _, err := stranger.Read(buf); err != nil {
				break
			} else if got == expected {
				t.Fatal("an answer that was not given")
			}
		}
	})
}
