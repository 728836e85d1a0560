package usernet

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// maxFlows is how many the guest has. The one that has been silent for longest gives way to another.
	maxFlows = 1024
	idleTime = 90 * time.Second
)

// flow is what a socket of the guest and one address have to say to each other.
type flow struct {
	outside *net.UDPConn
	inside  tcpip.Endpoint
	queue   waiter.Queue
	last    atomic.Int64 // when there was a datagram, in Unix time in nanoseconds
	once    sync.Once
	closed  chan struct{}
}

func (f *flow) touch() { f.last.Store(time.Now().UnixNano()) }

func (f *flow) end() time.Time { return time.Unix(0, f.last.Load()).Add(idleTime) }

func (f *flow) close() {
	f.once.Do(func() {
		close(f.closed)
		_ = f.outside.Close()
		f.inside.Close()
	})
}

// table has the flows.
type table struct {
	mu    sync.Mutex
	flows map[*flow]struct{}
}

func (t *table) add(f *flow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.flows) >= maxFlows {
		var oldest *flow
		for o := range t.flows {
			if oldest == nil || o.last.Load() < oldest.last.Load() {
				oldest = o
			}
		}
		delete(t.flows, oldest)
		go oldest.close() // which takes locks of the stack's
	}
	t.flows[f] = struct{}{}
}

func (t *table) remove(f *flow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.flows, f)
}

var broadcast4 = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// open makes a flow for a datagram that belongs to none. The stack waits for it.
func (n *network) open(r *udp.ForwarderRequest) {
	to := n.destination(r.ID())
	if to.Addr().IsMulticast() || to.Addr() == broadcast4 {
		return
	}
	outside, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return
	}
	f := &flow{outside: outside, closed: make(chan struct{})}
	f.touch()
	inside, refused := r.CreateEndpoint(&f.queue)
	if refused != nil {
		_ = outside.Close()
		return
	}
	f.inside = inside
	n.add(f)
	go f.send()
	go func() {
		f.receive()
		f.close()
		n.remove(f)
	}()
}

// buffers are for a datagram each. Flows wait without one.
var buffers = sync.Pool{New: func() any { return new([1 << 16]byte) }}

// send passes on what the guest says.
func (f *flow) send() {
	entry, readable := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp)
	f.queue.EventRegister(&entry)
	defer f.queue.EventUnregister(&entry)
	for {
		buf := buffers.Get().(*[1 << 16]byte)
		room := tcpip.SliceWriter(buf[:])
		result, err := f.inside.Read(&room, tcpip.ReadOptions{})
		if err == nil {
			f.touch()
			_, _ = f.outside.Write(buf[:result.Count]) // lost, as datagrams are
		}
		buffers.Put(buf)
		switch err.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			select {
			case <-readable:
			case <-f.closed:
				return
			}
		default:
			return
		}
	}
}

// receive passes on what the guest is told, until the flow is closed or has been silent for too long.
func (f *flow) receive() {
	for {
		_ = f.outside.SetReadDeadline(f.end())
		err := await(f.outside)
		if err == nil {
			buf := buffers.Get().(*[1 << 16]byte)
			var n int
			if n, err = f.outside.Read(buf[:]); err == nil {
				f.touch()
				_, _ = f.inside.Write(bytes.NewReader(buf[:n]), tcpip.WriteOptions{})
			}
			buffers.Put(buf)
		}
		switch {
		case err == nil, errors.Is(err, unix.ECONNREFUSED): // there was nobody, but there may be
		case time.Now().Before(f.end()) && !errors.Is(err, net.ErrClosed):
		default:
			return
		}
	}
}

// await waits until there is something to read, or an error, which it returns.
func await(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	waitErr := raw.Read(func(fd uintptr) bool {
		_, _, err = unix.Recvfrom(int(fd), nil, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return !errors.Is(err, unix.EAGAIN)
	})
	return errors.Join(waitErr, err)
}
