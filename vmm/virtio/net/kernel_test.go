package net

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/eventfd"
	"github.com/huskvm/husk/vmm/vhost"
	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/virtiotest"
)

func TestAKernelThatCannotLeavesThePacketsToTheWorkers(t *testing.T) {
	g := plugPairs(t, 2)
	if err := g.dev.Reset(); err != nil {
		t.Fatal(err)
	}
	var nets []*vhost.Net
	for range 2 {
		f, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		nets = append(nets, vhost.FromFile(f))
	}
	g.dev.kernel = newKernel(nets, g.dev.links)
	for range 2 {
		g.activate(t)
		g.use(t, 2)
		for pair := range 2 {
			if !g.arrives(t, pair, "in") {
				t.Errorf("pair %d: nothing came", pair)
			}
		}
		if err := errors.Join(g.dev.Pause(), g.dev.Resume(), g.dev.Reset()); err != nil {
			t.Error(err)
		}
	}
	for _, n := range nets {
		if n.Close() == nil {
			t.Error("the kernel's device is open still")
		}
	}
}

// lentGuest is a guest of one pair whose notifications are eventfds, on a real tap.
type lentGuest struct {
	*virtiotest.Driver
	dev         *Device
	socket      int // of the host, beside the tap
	rings       [2]*virtiotest.Queue
	kicks, call *eventfdPair
	tr          *virtiotest.Transport
}

type eventfdPair [2]*eventfd.EventFD

func newEventfds(t *testing.T) *eventfdPair {
	var p eventfdPair
	for i := range p {
		e, err := eventfd.New()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = e.Close() })
		p[i] = e
	}
	return &p
}

// onKernel runs f with a guest that vhost-net serves.
func onKernel(t *testing.T, f func(g *lentGuest)) {
	t.Helper()
	inNetns(t, func() {
		n, err := vhost.Open()
		if errors.Is(err, fs.ErrNotExist) {
			t.Logf("skipped: %v", err)
			return
		}
		if err != nil {
			t.Error(err)
			return
		}
		tap, socket := newTap(t)
		defer unix.Close(socket)
		dev, err := New(Config{Taps: []*os.File{tap}, Kernel: []*vhost.Net{n}, MAC: testMAC})
		if err != nil {
			t.Error(err)
			return
		}
		g := &lentGuest{Driver: virtiotest.NewDriver(t, 8<<20), dev: dev, socket: socket, kicks: newEventfds(t), call: newEventfds(t)}
		g.activate(t)
		f(g)
		if err := errors.Join(dev.Reset(), dev.Close()); err != nil {
			t.Error(err)
		}
	})
}

func (g *lentGuest) activate(t *testing.T) {
	g.rings = [2]*virtiotest.Queue{g.NewQueue(64), g.NewQueue(64)}
	a, tr := g.Activation(featureMrgRxbuf|featureCsum, g.rings[0], g.rings[1])
	g.tr = tr
	for i, vq := range a.Queues {
		vq.Lendable(func() virtio.Eventfds { return virtio.Eventfds{Kick: g.kicks[i].FD(), Call: g.call[i].FD()} })
	}
	if err := g.dev.Activate(a); err != nil {
		t.Error(err)
	}
	if g.dev.kernel == nil {
		t.Error("the kernel does not serve")
	}
}

func (g *lentGuest) submit(ring int, chain ...virtiotest.Desc) {
	g.rings[ring].Submit(0, chain...)
	_ = g.kicks[ring].Signal()
}

// used waits for what the kernel has used.
func (g *lentGuest) used(ring int, within time.Duration) (n uint32, ok bool) {
	for end := time.Now().Add(within); ; {
		if _, n, err := g.rings[ring].UsedWithin(0); err == nil {
			return n, true
		}
		left := time.Until(end)
		if left <= 0 {
			return 0, false
		}
		fds := []unix.PollFd{{Fd: int32(g.call[ring].FD()), Events: unix.POLLIN}}
		if n, _ := unix.Poll(fds, int(left.Milliseconds())+1); n > 0 {
			_ = g.call[ring].Wait()
		}
	}
}

// asks who has 10.0.0.1, which the host's kernel answers.
func (g *lentGuest) asks(t *testing.T) {
	broadcast, me := bytes.Repeat([]byte{0xff}, 6), []byte(testMAC)
	arp := bytes.Join([][]byte{
		make([]byte, headerSize), broadcast, me, {8, 6}, // Ethernet
		{0, 1, 8, 0, 6, 4, 0, 1}, me, {10, 0, 0, 2}, make([]byte, 6), {10, 0, 0, 1},
	}, nil)
	g.submit(vhost.Transmit, virtiotest.Desc{Addr: g.Put(arp), Len: uint32(len(arp))})
	if _, ok := g.used(vhost.Transmit, 10*time.Second); !ok {
		t.Error("a packet is not sent")
	}
	g.receives(t, "an answer", func(f []byte) bool { return f[12] == 8 && f[13] == 6 && f[21] == 2 })
}

// receives takes packets until one satisfies want: a host that comes up has things to say of its own.
func (g *lentGuest) receives(t *testing.T, what string, want func(frame []byte) bool) {
	for range 50 {
		buf := g.Alloc(2048)
		g.submit(vhost.Receive, virtiotest.Desc{Addr: buf, Len: 2048, Writable: true})
		n, ok := g.used(vhost.Receive, 10*time.Second)
		if !ok {
			break
		}
		if p := g.Bytes(buf, int(n)); p[10] == 1 && want(p[headerSize:]) {
			return
		}
	}
	t.Errorf("%s did not come", what)
}

func TestTheKernelCarriesPackets(t *testing.T) {
	onKernel(t, func(g *lentGuest) {
		say := func(text string) {
			if err := unix.Sendto(g.socket, []byte(text), 0, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{10, 0, 0, 2}}); err != nil {
				t.Errorf("send: %v", err)
			}
		}
		hears := func(text string) {
			g.receives(t, text, func(f []byte) bool { return bytes.HasSuffix(f, []byte(text)) })
		}
		for range 3 {
			g.asks(t)
			say(strings.Repeat("datagram ", 100))
			hears(strings.Repeat("datagram ", 100))

			// What comes to a paused guest waits, and so does what the guest has said in the moment before.
			if err := g.dev.Pause(); err != nil {
				t.Error(err)
			}
			buf := g.Alloc(2048)
			g.submit(vhost.Receive, virtiotest.Desc{Addr: buf, Len: 2048, Writable: true})
			say("paused")
			if _, ok := g.used(vhost.Receive, 50*time.Millisecond); ok {
				t.Error("a paused guest's memory is written")
			}
			if err := g.dev.Resume(); err != nil {
				t.Error(err)
			}
			n, ok := g.used(vhost.Receive, 10*time.Second)
			if p := g.Bytes(buf, int(n)); !ok || !bytes.HasSuffix(p, []byte("paused")) {
				hears("paused") // something else was first
			}
			g.asks(t)

			if err := g.dev.Reset(); err != nil {
				t.Error(err)
			}
			g.activate(t)
		}
	})
}

func TestOffencesAreFoundByTheKernel(t *testing.T) {
	const in = virtiotest.Base
	for name, submit := range map[string]func(g *lentGuest){
		"writable packet":       func(g *lentGuest) { g.submit(vhost.Transmit, virtiotest.Desc{Addr: in, Len: 64, Writable: true}) },
		"packet outside of RAM": func(g *lentGuest) { g.submit(vhost.Transmit, virtiotest.Desc{Addr: 0, Len: 64}) },
		"packet that wraps":     func(g *lentGuest) { g.submit(vhost.Transmit, virtiotest.Desc{Addr: ^uint64(0) - 16, Len: 64}) },
		"far ahead": func(g *lentGuest) {
			g.rings[vhost.Transmit].SetAvailIndex(1000)
			_ = g.kicks[vhost.Transmit].Signal()
		},
	} {
		t.Run(name, func(t *testing.T) {
			onKernel(t, func(g *lentGuest) {
				submit(g)
				select {
				case <-g.tr.Failed:
				case <-time.After(10 * time.Second):
					t.Error("the device did not fail")
				}
				if err := g.dev.Reset(); err != nil {
					t.Error(err)
				}
				g.activate(t) // and all is well
				g.asks(t)
			})
		})
	}
}

// The kernel tries it again and again, until the reset.
func TestHalfAHeaderStopsItsOwnQueueInTheKernel(t *testing.T) {
	onKernel(t, func(g *lentGuest) {
		g.submit(vhost.Transmit, virtiotest.Desc{Addr: virtiotest.Base, Len: 11})
		if err := g.dev.Reset(); err != nil {
			t.Error(err)
		}
		g.activate(t)
		g.asks(t)
	})
}

// Rings that are not all of them in the guest's memory never get to the kernel.
func TestRingsOutsideOfMemoryAreNotGivenToTheKernel(t *testing.T) {
	f, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := vhost.FromFile(f)
	defer n.Close()
	d := virtiotest.NewDriver(t, 1<<16)
	const base, end = virtiotest.Base, virtiotest.Base + 1<<16
	for name, r := range map[string]vhost.Ring{
		"descriptors": {Size: 64, Desc: end - 64*16 + 1, Driver: base, Device: base},
		"driver":      {Size: 64, Desc: base, Driver: end - 6 - 2*64 + 1, Device: base},
		"device":      {Size: 64, Desc: base, Driver: base, Device: end - 6 - 8*64 + 1},
		"wraps":       {Size: 64, Desc: ^uint64(0), Driver: base, Device: base},
	} {
		if err := n.SetRing(vhost.Receive, r, d.Memory); err == nil || !strings.Contains(err.Error(), "outside of guest memory") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
