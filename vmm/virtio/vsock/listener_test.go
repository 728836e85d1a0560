package vsock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// serve serves connections of the host, and returns a function that makes one.
func serve(t *testing.T, g *guest) (dial func() *net.UnixConn, stop func()) {
	t.Helper()
	name := t.TempDir() + "/" + SocketName
	l, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- g.dev.Serve(ctx, l) }()
	stop = func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		served <- nil
	}
	t.Cleanup(stop)
	return func() *net.UnixConn {
		t.Helper()
		c, err := net.Dial("unix", name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(deadline))
		return c.(*net.UnixConn)
	}, stop
}

func TestTheHostConnectsToTheGuest(t *testing.T) {
	g := newGuest(t, hostFunc(nobody), 8, 4096)
	dial, _ := serve(t, g)
	c := dial()
	fmt.Fprintf(c, "CONNECT 52\n")
	r := g.expect(opRequest)
	if r.dstPort != 52 || r.bufAlloc != largeAlloc || r.dstCID != testCID || r.srcCID != hostCID {
		t.Errorf("request %+v", r.header)
	}
	// The guest talks and ends before the host can have heard that it has accepted.
	answer := func(o op, flags uint32, data string) {
		g.send(header{srcPort: 52, dstPort: r.srcPort, op: o, flags: flags, bufAlloc: 4096}, []byte(data))
	}
	answer(opResponse, 0, "")
	answer(opData, 0, "hello")
	answer(opShutdown, shutSend, "")
	wantRead(t, c, fmt.Sprintf("OK %d\nhello", r.srcPort))
	wantEnd(t, c)
	_, _ = c.Write([]byte("hello to you"))
	if d := g.expect(opData); string(d.data) != "hello to you" || d.srcPort != r.srcPort || d.dstPort != 52 {
		t.Errorf("data %+v %q", d.header, d.data)
	}

	// Each connection has a port of its own.
	fmt.Fprintf(dial(), "CONNECT 52\n")
	if again := g.expect(opRequest); again.srcPort == r.srcPort {
		t.Errorf("port %d twice", r.srcPort)
	}
}

func TestARefusalOfTheGuestsClosesTheHostsConnection(t *testing.T) {
	for _, o := range []op{opReset, opData, opShutdown, opRequest} {
		g := newGuest(t, hostFunc(nobody), 8, 4096)
		dial, _ := serve(t, g)
		c := dial()
		fmt.Fprintf(c, "CONNECT 52\n")
		r := g.expect(opRequest)
		g.send(header{srcPort: 52, dstPort: r.srcPort, op: o}, nil)
		wantEnd(t, c)
		if o != opReset {
			g.expect(opReset)
		}
		g.quiet()
	}
}

func TestWhatIsNotAConnectIsClosed(t *testing.T) {
	g := newGuest(t, hostFunc(nobody), 8, 4096)
	dial, _ := serve(t, g)
	for _, line := range []string{
		"\n", "CONNECT\n", "CONNECT \n", "CONNECT x\n", "CONNECT -1\n", "CONNECT 4294967296\n", "CONNECT 1 \n",
		"connect 1\n", "CONNECT 1\r\n", strings.Repeat("C", 10000), "CONNECT 00000000000000001\n",
	} {
		c := dial()
		_, _ = c.Write([]byte(line))
		if n, err := c.Read(make([]byte, 10)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%.20q: read %d, %v", line, n, err)
		}
	}
	c := dial()
	_ = c.CloseWrite()
	wantEnd(t, c)
	g.quiet()
}

func TestServeEndsWithUnfinishedConnections(t *testing.T) {
	g := newGuest(t, hostFunc(nobody), 8, 4096)
	dial, stop := serve(t, g)
	silent, unanswered := dial(), dial()
	fmt.Fprintf(silent, "CONN")
	fmt.Fprintf(unanswered, "CONNECT 1\n")
	g.expect(opRequest)
	stop()
	wantEnd(t, unanswered)
	g.expect(opReset)
	if n, err := silent.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d, %v, want an end", n, err)
	}
}

func TestConnectFailsWhileThereIsNoDriver(t *testing.T) {
	d := New(Config{GuestCID: testCID, Host: hostFunc(nobody)})
	device, ours := pair(t)
	if err := d.Connect(context.Background(), device, 1, nil); !errors.Is(err, ErrInactive) {
		t.Errorf("connect: %v, want %v", err, ErrInactive)
	}
	wantEnd(t, ours)
}

func TestAnErrorOfAcceptedResetsTheConnection(t *testing.T) {
	g := newGuest(t, hostFunc(nobody), 8, 4096)
	device, ours := pair(t)
	refused := make(chan error)
	go func() {
		refused <- g.dev.Connect(context.Background(), device, 1, func(uint32) error { return errNobody })
	}()
	r := g.expect(opRequest)
	g.send(header{srcPort: 1, dstPort: r.srcPort, op: opResponse}, nil)
	g.send(header{srcPort: 1, dstPort: r.srcPort, op: opData}, []byte("x"))
	if err := <-refused; !errors.Is(err, errNobody) {
		t.Errorf("connect: %v", err)
	}
	g.expect(opReset)
	wantEnd(t, ours)
}

func TestUnixHostDialsByRelativeName(t *testing.T) {
	t.Chdir(t.TempDir())
	l, err := net.Listen("unix", "vsock.sock_1024")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	g := newGuest(t, UnixHost(SocketName), 8, 4096)
	g.send(on(7, opRequest), nil)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	g.expect(opResponse)
	g.send(on(7, opData), []byte("hello"))
	wantRead(t, c, "hello")

	h := on(7, opRequest)
	h.dstPort = 1025
	g.send(h, nil)
	g.expect(opReset)
}

func TestUnixHostWaitsForAFullQueue(t *testing.T) {
	t.Chdir(t.TempDir())
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: "v_1"}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const n = 20
	results := make(chan error)
	for range n {
		go func() {
			c, err := UnixHost("v").Dial(context.Background(), 1)
			if err == nil {
				_ = c.Close()
			}
			results <- err
		}()
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	for range n {
		if err := <-results; err != nil {
			t.Fatal(err)
		}
	}
}
