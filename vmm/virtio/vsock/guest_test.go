package vsock

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio/virtiotest"
)

const (
	testCID  = 3
	hostPort = 1024
	slots    = 64
	perSlot  = 4 // descriptors
)

// deadline is how long any one step of these tests may take; nothing waits that long unless it fails.
const deadline = 20 * time.Second

// guest is the driver's side: packets in and out.
type guest struct {
	t      testing.TB
	dev    *Device
	driver *virtiotest.Driver
	rx, tx *virtiotest.Queue
	failed *virtiotest.Transport
	rxSize int
	rxAddr [slots]uint64

	mu     sync.Mutex // sending
	txAddr [slots]uint64
	txFree []uint16
}

// newGuest activates a device whose guest has count rx buffers of rxSize bytes.
func newGuest(t testing.TB, host Host, count, rxSize int) *guest {
	t.Helper()
	g := &guest{t: t, dev: New(Config{GuestCID: testCID, Host: host}), rxSize: rxSize}
	g.activate(count)
	t.Cleanup(func() { _ = g.dev.Close() })
	return g
}

func (g *guest) activate(count int) {
	g.t.Helper()
	d := virtiotest.NewDriver(g.t, 16<<20)
	g.driver, g.rx, g.tx, g.txFree = d, d.NewQueue(256), d.NewQueue(256), nil
	a, tr := d.Activation(0, g.rx, g.tx, d.NewQueue(256))
	g.failed = tr
	for i := range uint16(slots) {
		g.rxAddr[i], g.txAddr[i] = d.Alloc(g.rxSize), d.Alloc(maxPayload+headerSize)
		g.txFree = append(g.txFree, i)
	}
	if err := g.dev.Activate(a); err != nil {
		g.t.Fatal(err)
	}
	for i := range count {
		g.post(uint16(i))
	}
}

// post offers rx buffer i, cut into three: the header itself is split.
func (g *guest) post(i uint16) {
	a, n := g.rxAddr[i], uint32(g.rxSize)
	g.rx.Submit(i*perSlot,
		virtiotest.Desc{Addr: a, Len: 20, Writable: true},
		virtiotest.Desc{Addr: a + 20, Len: 25, Writable: true},
		virtiotest.Desc{Addr: a + 45, Len: n - 45, Writable: true})
}

// packet is what the guest has received.
type packet struct {
	header
	data []byte
}

// receiveWithin takes the next packet.
func (g *guest) receiveWithin(d time.Duration) (p packet, err error) {
	head, n, err := g.rx.UsedWithin(d)
	if err != nil {
		return p, err
	}
	i := head / perSlot
	b := bytes.Clone(g.driver.Bytes(g.rxAddr[i], int(n)))
	g.post(i)
	p.decode((*[headerSize]byte)(b))
	p.data = b[headerSize:]
	if int(p.size) != len(p.data) {
		g.t.Errorf("packet with %d bytes says it has %d", len(p.data), p.size)
	}
	return p, nil
}

func (g *guest) receive() packet {
	g.t.Helper()
	p, err := g.receiveWithin(deadline)
	if err != nil {
		g.t.Fatal(err)
	}
	return p
}

// expect takes the next packet, which must be of op.
func (g *guest) expect(want op) packet {
	g.t.Helper()
	p := g.receive()
	if p.op != want {
		g.t.Fatalf("packet is %+v, want operation %d", p.header, want)
	}
	return p
}

// quiet checks that nothing comes before a packet that is asked for last.
func (g *guest) quiet() {
	g.t.Helper()
	g.send(header{srcPort: 99, dstPort: 99, op: opCreditRequest}, nil)
	if p := g.receive(); p.op != opReset || p.dstPort != 99 {
		g.t.Fatalf("unexpected packet %+v", p.header)
	}
}

// send sends h, completed by what is usual, and p, in three descriptors.
func (g *guest) send(h header, p []byte) {
	if h.size == 0 {
		h.size = uint32(len(p))
	}
	if h.srcCID == 0 {
		h.srcCID = testCID
	}
	if h.dstCID == 0 {
		h.dstCID = hostCID
	}
	if h.socketType == 0 {
		h.socketType = typeStream
	}
	var b [headerSize]byte
	h.encode(&b)
	g.sendBytes(append(b[:], p...))
}

func (g *guest) sendBytes(b []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.txFree) == 0 {
		head, _, err := g.tx.UsedWithin(deadline)
		if err != nil {
			g.t.Errorf("send: %v", err)
			return
		}
		g.txFree = append(g.txFree, head/perSlot)
	}
	i := g.txFree[len(g.txFree)-1]
	g.txFree = g.txFree[:len(g.txFree)-1]
	a := g.txAddr[i]
	copy(g.driver.Bytes(a, len(b)), b)
	chain := []virtiotest.Desc{{Addr: a, Len: uint32(min(len(b), 30))}}
	if len(b) > 30 {
		cut := min(len(b), 50)
		chain = append(chain, virtiotest.Desc{Addr: a + 30, Len: uint32(cut - 30)})
		if len(b) > cut {
			chain = append(chain, virtiotest.Desc{Addr: a + uint64(cut), Len: uint32(len(b) - cut)})
		}
	}
	g.tx.Submit(i*perSlot, chain...)
}

// settled waits until the device has taken all that was sent.
func (g *guest) settled() {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.txFree) < slots {
		head, _ := g.tx.Used()
		g.txFree = append(g.txFree, head/perSlot)
	}
}

// hostFunc is a Host.
type hostFunc func(ctx context.Context, port uint32) (Conn, error)

func (f hostFunc) Dial(ctx context.Context, port uint32) (Conn, error) { return f(ctx, port) }

// pairs is a host that gives the other end of every connection to the test.
type pairs struct {
	t    testing.TB
	ends chan hostEnd
}

func newPairs(t testing.TB) *pairs { return &pairs{t: t, ends: make(chan hostEnd, maxConns)} }

// hostEnd is the test's end of a host's socket. Each single read and write has the whole deadline: how long a
// transfer takes in all is the machine's business.
type hostEnd struct{ *net.UnixConn }

func (h hostEnd) Read(p []byte) (int, error) {
	_ = h.SetReadDeadline(time.Now().Add(deadline))
	return h.UnixConn.Read(p)
}

func (h hostEnd) Write(p []byte) (int, error) {
	_ = h.SetWriteDeadline(time.Now().Add(deadline))
	return h.UnixConn.Write(p)
}

func (p *pairs) Dial(context.Context, uint32) (Conn, error) {
	device, test := pair(p.t)
	p.ends <- hostEnd{test}
	return device, nil
}

// end is the test's end of the next connection.
func (p *pairs) end() hostEnd {
	p.t.Helper()
	select {
	case c := <-p.ends:
		return c
	case <-time.After(deadline):
		p.t.Fatal("host was not dialled")
		return hostEnd{}
	}
}

// pair returns two connected sockets.
func pair(t testing.TB) (a, b *net.UnixConn) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Error(err)
		return nil, nil
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		if err != nil {
			t.Error(err)
			return nil, nil
		}
		_ = f.Close()
		ends[i] = c.(*net.UnixConn)
		t.Cleanup(func() { _ = c.Close() })
	}
	return ends[0], ends[1]
}

var errNobody = errors.New("nobody listens")

func nobody(context.Context, uint32) (Conn, error) { return nil, errNobody }

// open makes a connection of the guest's from port to hostPort.
func (g *guest) open(p *pairs, port uint32) hostEnd {
	g.t.Helper()
	g.send(header{srcPort: port, dstPort: hostPort, op: opRequest, bufAlloc: 64 << 10}, nil)
	if r := g.expect(opResponse); r.dstPort != port || r.srcPort != hostPort || r.dstCID != testCID || r.srcCID != hostCID {
		g.t.Fatalf("response %+v", r.header)
	}
	return p.end()
}

// on is a header of the connection from port.
func on(port uint32, o op) header {
	return header{srcPort: port, dstPort: hostPort, op: o, bufAlloc: 64 << 10}
}

// wantEnd checks that c has nothing but its end to read.
func wantEnd(t testing.TB, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("read %d, %v, want end of file", n, err)
	}
}

func wantRead(t testing.TB, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Fatalf("read %q, %v, want %q", b, err, want)
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, deadline)
		}
		time.Sleep(time.Millisecond)
	}
}

// wantNoGoroutines checks that the device has left none, but for those in their last instructions.
func wantNoGoroutines(t testing.TB) {
	t.Helper()
	eventually(t, "goroutines end", func() bool { return ourGoroutines() == 0 })
}

// ourGoroutines counts those of the device.
func ourGoroutines() int {
	buf := make([]byte, 4<<20)
	n := 0
	for s := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(s, "vsock.(*mux)") || strings.Contains(s, "vsock.(*sender)") || strings.Contains(s, "virtio.(*Workers)") {
			n++
		}
	}
	return n
}
