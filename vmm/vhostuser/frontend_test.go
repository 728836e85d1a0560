package vhostuser

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/eventfd"
	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/queue"
	"github.com/huskvm/husk/vmm/virtio/virtiotest"
)

// deadline is how long anything in these tests may take; nothing waits that long unless it fails.
const deadline = 10 * time.Second

// echo answers each chain with what it read. It has three queues, of which the tests' front end uses two.
type echo struct {
	workers     virtio.Workers
	config      [8]byte
	broken      atomic.Bool
	transport   atomic.Value // virtio.Transport
	activations atomic.Int32
	resets      atomic.Int32
	queues      atomic.Int32 // of the last activation
}

func (e *echo) ID() virtio.ID                    { return virtio.Entropy }
func (e *echo) Features() uint64                 { return 1 << 3 }
func (e *echo) Queues() []uint16                 { return []uint16{16, 16, 16} }
func (e *echo) ReadConfig(p []byte, off uint32)  { virtio.ReadConfigBytes(e.config[:], p, off) }
func (e *echo) WriteConfig(p []byte, off uint32) { copy(e.config[min(int(off), 8):], p) }
func (e *echo) Reset() error {
	e.workers.Stop()
	e.resets.Add(1)
	return nil
}

func (e *echo) Activate(a *virtio.Activation) error {
	e.activations.Add(1)
	e.transport.Store(a.Transport)
	e.queues.Store(0)
	if len(a.Queues) != 3 {
		return errors.New("three queues are mine")
	}
	for _, q := range a.Queues {
		if q != nil {
			e.queues.Add(1)
		}
		e.workers.Serve(q, a.Transport, func(c *queue.Chain) error {
			b, err := io.ReadAll(c)
			if err != nil {
				return err
			}
			_, _ = c.Write(b)
			return nil
		})
	}
	if e.broken.Load() {
		return errors.New("broken")
	}
	return nil
}

// The front end's memory: two regions of one file, the second of which lies elsewhere in its address space.
const (
	ramSize  = 1 << 20
	lowUser  = 0x7f0000000000
	highUser = 0x7e0000000000
)

func user(guest uint64) uint64 {
	if off := guest - virtiotest.Base; off >= ramSize/2 {
		return highUser + off - ramSize/2
	}
	return lowUser + guest - virtiotest.Base
}

// frontEnd is the program that a back end serves, and the guest in it.
type frontEnd struct {
	t       testing.TB
	conn    *net.UnixConn
	backend *Backend
	device  *echo
	driver  *virtiotest.Driver
	ram     *os.File
	ended   chan error
	kick    [2]*eventfd.EventFD
	call    [2]*eventfd.EventFD
	err     *eventfd.EventFD
}

// connect starts a back end of an echo device with two rings, and its front end, which has said nothing yet.
func connect(t testing.TB) *frontEnd {
	t.Helper()
	f := &frontEnd{t: t, device: &echo{}, ended: make(chan error, 1), err: newEventFD(t)}
	for i := range f.kick {
		f.kick[i], f.call[i] = newEventFD(t), newEventFD(t)
	}
	ram, file := sharedMemory(t, ramSize)
	f.ram, f.driver = file, virtiotest.NewDriverIn(t, ram)
	b, err := New(Config{Device: f.device, Log: slog.New(slog.DiscardHandler), Queues: 2})
	if err != nil {
		t.Fatal(err)
	}
	f.backend = b
	t.Cleanup(func() { _ = b.Close() })
	f.reconnect()
	return f
}

// reconnect makes a new connection for a back end without a front end.
func (f *frontEnd) reconnect() {
	f.t.Helper()
	back, front := connPair(f.t)
	f.conn = front
	go func() { f.ended <- f.backend.Serve(back) }()
}

func connPair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := [2]*net.UnixConn{}
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socket")
		c, err := net.FileConn(file)
		if err != nil {
			t.Fatal(err)
		}
		_ = file.Close()
		conns[i] = c.(*net.UnixConn)
		t.Cleanup(func() { _ = c.Close() })
	}
	return conns[0], conns[1]
}

func sharedMemory(t testing.TB, size int) ([]byte, *os.File) {
	t.Helper()
	fd, err := unix.MemfdCreate("husk-test-ram", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "ram")
	t.Cleanup(func() { _ = f.Close() })
	if err := f.Truncate(int64(size)); err != nil {
		t.Fatal(err)
	}
	b, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(b) })
	return b, f
}

func newEventFD(t testing.TB) *eventfd.EventFD {
	t.Helper()
	e, err := eventfd.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// wait fails the test if e is not signalled.
func (f *frontEnd) wait(e *eventfd.EventFD) {
	f.t.Helper()
	timer := time.AfterFunc(deadline, e.Cancel)
	defer timer.Stop()
	if err := e.Wait(); err != nil {
		f.t.Fatalf("no signal: %v", err)
	}
}

// write sends bytes as they are.
func (f *frontEnd) write(b []byte, fds ...int) {
	f.t.Helper()
	if _, _, err := f.conn.WriteMsgUnix(b, unix.UnixRights(fds...), nil); err != nil {
		f.t.Fatal(err)
	}
}

func (f *frontEnd) send(r request, payload []byte, fds ...int) {
	f.t.Helper()
	f.write(header{request: r, flags: flagVersion}.encode(payload), fds...)
}

// reply reads the answer to r.
func (f *frontEnd) reply(r request) []byte {
	f.t.Helper()
	_ = f.conn.SetReadDeadline(time.Now().Add(deadline))
	var head [headerSize]byte
	if _, err := io.ReadFull(f.conn, head[:]); err != nil {
		f.t.Fatalf("reply to %s: %v", r, err)
	}
	if got, flags := request(order.Uint32(head[:])), order.Uint32(head[4:]); got != r || flags != flagVersion|flagReply {
		f.t.Fatalf("reply to %s: %s with flags %#x", r, got, flags)
	}
	payload := make([]byte, order.Uint32(head[8:]))
	if _, err := io.ReadFull(f.conn, payload); err != nil {
		f.t.Fatalf("reply to %s: %v", r, err)
	}
	return payload
}

// ask sends a request that has a reply of its own.
func (f *frontEnd) ask(r request, payload []byte) []byte {
	f.t.Helper()
	f.send(r, payload)
	return f.reply(r)
}

// do sends a request and wants to hear that it was done.
func (f *frontEnd) do(r request, payload []byte, fds ...int) {
	f.t.Helper()
	if got := f.try(r, payload, fds...); got != 0 {
		f.t.Fatalf("%s: refused with %d", r, got)
	}
}

func (f *frontEnd) try(r request, payload []byte, fds ...int) uint64 {
	f.t.Helper()
	f.write(header{request: r, flags: flagVersion | flagNeedReply}.encode(payload), fds...)
	return order.Uint64(f.reply(r))
}

func state(index, num uint32) []byte { return ringState{index, num}.encode() }

func encodeTable(regions ...region) []byte {
	b := order.AppendUint32(nil, uint32(len(regions)))
	b = order.AppendUint32(b, 0)
	for _, r := range regions {
		for _, v := range []uint64{r.guest, r.size, r.user, r.offset} {
			b = order.AppendUint64(b, v)
		}
	}
	return b
}

func (a ringAddr) encode() []byte {
	b := order.AppendUint32(nil, a.index)
	b = order.AppendUint32(b, a.flags)
	for _, v := range []uint64{a.desc, a.used, a.avail, 0} {
		b = order.AppendUint64(b, v)
	}
	return b
}

func addrOf(i uint32, cfg queue.Config) ringAddr {
	return ringAddr{index: i, desc: user(cfg.Desc), used: user(cfg.Device), avail: user(cfg.Driver)}
}

var ramTable = encodeTable(
	region{guest: virtiotest.Base, size: ramSize / 2, user: lowUser},
	region{guest: virtiotest.Base + ramSize/2, size: ramSize / 2, user: highUser, offset: ramSize / 2})

const guestFeatures = virtio.TransportFeatures | 1<<3

// negotiate goes as far as guest memory.
func (f *frontEnd) negotiate(features uint64) {
	f.t.Helper()
	f.send(setProtocolFeatures, encodeU64(protocolMQ|protocolReplyAck|protocolBackendReq|protocolConfig))
	f.do(setOwner, nil)
	f.do(setFeatures, encodeU64(features))
	f.do(setMemTable, ramTable, int(f.ram.Fd()), int(f.ram.Fd()))
}

// startRing says all about a ring but that it is enabled.
func (f *frontEnd) startRing(i uint32, base uint32, cfg queue.Config) {
	f.t.Helper()
	f.do(setVringNum, state(i, uint32(cfg.Size)))
	f.do(setVringBase, state(i, base))
	f.do(setVringAddr, addrOf(i, cfg).encode())
	f.do(setVringCall, encodeU64(uint64(i)), f.call[i].FD())
	f.do(setVringErr, encodeU64(uint64(i)), f.err.FD())
	f.do(setVringKick, encodeU64(uint64(i)), f.kick[i].FD())
}

func (f *frontEnd) enable(num uint32) {
	f.t.Helper()
	for i := range uint32(2) {
		f.do(setVringEnable, state(i, num))
	}
}

// start has both rings running.
func (f *frontEnd) start() (q [2]*virtiotest.Queue) {
	f.t.Helper()
	f.negotiate(guestFeatures | featureProtocol)
	for i := range q {
		q[i] = f.driver.NewQueue(16)
		f.startRing(uint32(i), 0, q[i].Config)
	}
	f.enable(1)
	return q
}

// submit makes a chain available without a kick, and asks for an interrupt. The answer will be at the address
// returned. All earlier chains are answered.
func (f *frontEnd) submit(q *virtiotest.Queue, head uint16, text string) (answer uint64) {
	f.t.Helper()
	used, err := f.driver.Memory.WordAt(q.Config.Device + 2)
	if err != nil {
		f.t.Fatal(err)
	}
	q.SetUsedEvent(used.Load())
	in, answer := f.driver.Put([]byte(text)), f.driver.Alloc(64)
	q.Submit(head, virtiotest.Desc{Addr: in, Len: uint32(len(text))}, virtiotest.Desc{Addr: answer, Len: 64, Writable: true})
	return answer
}

// answered takes the chain that was submitted to ring i.
func (f *frontEnd) answered(i int, q *virtiotest.Queue, answer uint64, text string) {
	f.t.Helper()
	f.wait(f.call[i])
	_, n := q.Used()
	if got := f.driver.Bytes(answer, len(text)); int(n) != len(text) || !bytes.Equal(got, []byte(text)) {
		f.t.Fatalf("%d bytes, %q; want %q", n, got, text)
	}
}

func (f *frontEnd) echo(i int, q *virtiotest.Queue, text string) {
	f.t.Helper()
	answer := f.submit(q, 0, text)
	if err := f.kick[i].Signal(); err != nil {
		f.t.Fatal(err)
	}
	f.answered(i, q, answer, text)
}

// over waits for the end of the session.
func (f *frontEnd) over() error {
	f.t.Helper()
	select {
	case err := <-f.ended:
		return err
	case <-time.After(deadline):
		f.t.Fatal("the session goes on")
		return nil
	}
}
