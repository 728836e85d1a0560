package net

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/queue"
	"github.com/huskvm/husk/vmm/virtio/virtiotest"
)

// pairs is a guest with several pairs of queues, each on a socket of which hosts has the other end.
type pairs struct {
	*virtiotest.Driver
	dev    *Device
	queues []*virtiotest.Queue // in the device's order
	tr     *virtiotest.Transport
	hosts  []*os.File
}

func plugPairs(t testing.TB, n int) *pairs {
	t.Helper()
	dev, err := newDevice(Config{MAC: testMAC})
	if err != nil {
		t.Fatal(err)
	}
	g := &pairs{Driver: virtiotest.NewDriver(t, 8<<20), dev: dev}
	for range n {
		near, far := socketPair(t)
		l, err := newLink(near)
		if err != nil {
			t.Fatal(err)
		}
		_ = near.Close()
		dev.links, g.hosts = append(dev.links, l), append(g.hosts, far)
	}
	g.activate(t)
	t.Cleanup(func() {
		_ = dev.Reset()
		_ = dev.Close()
	})
	return g
}

func (g *pairs) activate(t testing.TB) {
	t.Helper()
	g.queues = nil
	for range g.dev.Queues() {
		g.queues = append(g.queues, g.NewQueue(64))
	}
	a, tr := g.Activation(g.dev.Features(), g.queues...)
	g.tr = tr
	if err := g.dev.Activate(a); err != nil {
		t.Fatal(err)
	}
}

func (g *pairs) control() *virtiotest.Queue { return g.queues[len(g.queues)-1] }

// command is the device's answer.
func (g *pairs) command(cmd ...byte) byte {
	answer := g.Put([]byte{0xff})
	g.control().Submit(0, virtiotest.Desc{Addr: g.Put(cmd), Len: uint32(len(cmd))}, virtiotest.Desc{Addr: answer, Len: 1, Writable: true})
	g.control().Used()
	return g.Bytes(answer, 1)[0]
}

func (g *pairs) use(t testing.TB, n int) {
	t.Helper()
	if answer := g.command(classMQ, mqPairsSet, byte(n), byte(n>>8)); answer != ackOK {
		t.Fatalf("%d pairs: answer %d", n, answer)
	}
}

// arrives says whether a packet that is written to the host's end of a pair gets to the guest.
func (g *pairs) arrives(t testing.TB, pair int, text string) bool {
	t.Helper()
	rx, buf := g.queues[receiveQueue(pair)], g.Alloc(128)
	rx.Submit(0, virtiotest.Desc{Addr: buf, Len: 128, Writable: true})
	if _, err := g.hosts[pair].Write(packet(0, 0, text)); err != nil {
		t.Fatal(err)
	}
	_, n, err := rx.UsedWithin(10 * time.Second)
	return err == nil && string(g.Bytes(buf, int(n))[headerSize:]) == text
}

func (g *pairs) attached() (n int) {
	for _, l := range g.dev.links {
		if !l.detached {
			n++
		}
	}
	return n
}

func TestEachPairHasAQueueOfTheTap(t *testing.T) {
	g := plugPairs(t, 3)
	if g.attached() != 1 {
		t.Errorf("%d queues are attached at first", g.attached())
	}
	for _, n := range []int{3, 2, 1, 3} {
		if g.use(t, n); g.attached() != n {
			t.Errorf("%d queues are attached, want %d", g.attached(), n)
		}
	}
	for i, host := range g.hosts {
		if !g.arrives(t, i, "in") {
			t.Errorf("pair %d: nothing came", i)
		}
		want := packet(0, 0, "out")
		g.queues[transmitQueue(i)].Submit(0, virtiotest.Desc{Addr: g.Put(want), Len: uint32(len(want))})
		got := make([]byte, 100)
		if n, err := host.Read(got); err != nil || !bytes.Equal(got[:n], want) {
			t.Errorf("pair %d: %q, %v", i, got[:n], err)
		}
	}
}

func TestAResetLeavesOnePairInUse(t *testing.T) {
	g := plugPairs(t, 2)
	for range 3 {
		g.use(t, 2)
		if err := g.dev.Reset(); err != nil {
			t.Fatal(err)
		}
		g.activate(t)
		if g.attached() != 1 {
			t.Errorf("%d queues are attached", g.attached())
		}
		if !g.arrives(t, 0, "first") {
			t.Error("nothing came by the first pair")
		}
	}
}

func TestCommandsThatAreNone(t *testing.T) {
	g := plugPairs(t, 2)
	for name, cmd := range map[string][]byte{
		"no pair":         {classMQ, mqPairsSet, 0, 0},
		"too many":        {classMQ, mqPairsSet, 3, 0},
		"far too many":    {classMQ, mqPairsSet, 0xff, 0xff},
		"swapped bytes":   {classMQ, mqPairsSet, 0, 1},
		"another command": {classMQ, 1, 2, 0},
		"another class":   {0, 0, 1},
		"cut off":         {classMQ, mqPairsSet, 2},
		"too long":        {classMQ, mqPairsSet, 2, 0, 0},
		"a class alone":   {classMQ},
	} {
		if answer := g.command(cmd...); answer != ackError {
			t.Errorf("%s: answer %d", name, answer)
		}
	}
	if g.attached() != 1 {
		t.Errorf("%d queues are attached", g.attached())
	}
	g.use(t, 2) // and all is well
	g.control().Submit(0, virtiotest.Desc{Addr: g.Put([]byte{classMQ, 0, 1, 0}), Len: 4})
	select {
	case <-g.tr.Failed:
	case <-time.After(10 * time.Second):
		t.Error("a command without room for an answer is no offence")
	}
}

// A driver that sets up fewer queues than there are gets no more pairs than those.
func TestPairsWithoutTheirQueues(t *testing.T) {
	vq := &virtio.Virtqueue{}
	for want, queues := range map[int][]*virtio.Virtqueue{
		0: {nil, vq, vq, vq}, 1: {vq, vq, vq, nil}, 2: {vq, vq, vq, vq},
	} {
		if got := ready(queues, 2); got != want {
			t.Errorf("%d pairs are ready, want %d", got, want)
		}
	}
}

// Without VIRTIO_NET_F_MQ the control queue is the third.
func TestADriverOfOnePair(t *testing.T) {
	g := plugPairs(t, 2)
	if err := g.dev.Reset(); err != nil {
		t.Fatal(err)
	}
	g.queues = []*virtiotest.Queue{g.NewQueue(8), g.NewQueue(8), g.NewQueue(8)}
	a, _ := g.Activation(featureCtrlVQ, g.queues...)
	a.Queues = append(a.Queues, nil, nil)
	if err := g.dev.Activate(a); err != nil {
		t.Fatal(err)
	}
	if answer := g.command(classMQ, mqPairsSet, 2, 0); answer != ackError {
		t.Errorf("two pairs: answer %d", answer)
	}
	if !g.arrives(t, 0, "in") {
		t.Error("nothing came")
	}
}

func TestSeveralPairsAreOffered(t *testing.T) {
	for n, want := range map[int]struct {
		features uint64
		queues   int
	}{1: {0, 2}, 2: {featureMQ | featureCtrlVQ, 5}, 8: {featureMQ | featureCtrlVQ, 17}} {
		dev := &Device{links: make([]*link, n)}
		var max [2]byte
		dev.ReadConfig(max[:], 8)
		if f := dev.Features() & (featureMQ | featureCtrlVQ); f != want.features || len(dev.Queues()) != want.queues ||
			binary.LittleEndian.Uint16(max[:]) != uint16(n) {
			t.Errorf("%d pairs: features %#x, %d queues, at most %v pairs", n, f, len(dev.Queues()), max)
		}
	}
}

// newQueues makes a tap with a number of queues, all attached.
func newQueues(t *testing.T, n int) (taps []*os.File) {
	for range n {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Skipf("no tap devices here: %v", err)
		}
		ifr, _ := unix.NewIfreq("husk3")
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
			t.Errorf("TUNSETIFF: %v", err)
		}
		taps = append(taps, os.NewFile(uintptr(fd), "husk3"))
	}
	return taps
}

// onTap says whether a queue is attached, as the kernel has it.
func onTap(t *testing.T, l *link) bool {
	ifr, _ := unix.NewIfreq("")
	if err := unix.IoctlIfreq(l.fd, unix.TUNGETIFF, ifr); err != nil {
		t.Errorf("TUNGETIFF: %v", err)
	}
	return ifr.Uint16()&unix.IFF_DETACH_QUEUE == 0
}

func TestQueuesOfARealTapFollowTheDriver(t *testing.T) {
	inNetns(t, func() {
		dev, err := New(Config{Taps: newQueues(t, 4), MAC: testMAC})
		if err != nil {
			t.Error(err)
			return
		}
		g := &pairs{Driver: virtiotest.NewDriver(t, 8<<20), dev: dev}
		g.activate(t)
		for _, n := range []int{1, 4, 2, 3, 1, 4} {
			g.use(t, n)
			for i, l := range dev.links {
				if got := onTap(t, l); got != (i < n) {
					t.Errorf("%d pairs: queue %d is attached: %v", n, i, got)
				}
			}
		}
		_ = dev.Reset()
		_ = dev.Close()
	})
}

// FuzzControl gives the control queue a chain of any shape. Whatever it is, it is answered or an offence, and sets a
// number of pairs that there are.
func FuzzControl(f *testing.F) {
	f.Add([]byte{classMQ, mqPairsSet, 2, 0}, uint8(1), uint8(4))
	f.Add([]byte{classMQ, mqPairsSet, 2, 0}, uint8(0), uint8(4))
	f.Add([]byte{classMQ, mqPairsSet, 0xff, 0xff}, uint8(3), uint8(2))
	f.Add([]byte{0, 0, 1}, uint8(1), uint8(0))
	f.Fuzz(func(t *testing.T, data []byte, room, cut uint8) {
		data = data[:min(len(data), 4096)]
		d := virtiotest.NewDriver(t, 1<<20)
		q := d.NewQueue(8)
		at, answer := d.Put(data), d.Alloc(256)
		first := min(uint32(cut), uint32(len(data)))
		q.Submit(0, virtiotest.Desc{Addr: at, Len: first}, virtiotest.Desc{Addr: at + uint64(first), Len: uint32(len(data)) - first},
			virtiotest.Desc{Addr: answer, Len: uint32(room), Writable: true})
		dq, err := queue.New(d.Memory, q.Config)
		if err != nil {
			t.Fatal(err)
		}
		chain, err := dq.Pop()
		if err != nil {
			t.Fatal(err)
		}
		set := 0
		c := &controller{most: 4, use: func(n int) error { set = n; return nil }}
		err = c.handle(chain)
		switch want := len(data) == 4 && data[0] == classMQ && data[1] == mqPairsSet && data[2] >= 1 && data[2] <= 4 && data[3] == 0; {
		case room == 0:
			if err == nil || set != 0 {
				t.Errorf("no room for an answer: %v, %d pairs", err, set)
			}
		case err != nil:
			t.Error(err)
		case want != (set != 0) || set != 0 && set != int(data[2]):
			t.Errorf("%x set %d pairs", data, set)
		case want != (d.Bytes(answer, 1)[0] == ackOK):
			t.Errorf("%x was answered %d", data, d.Bytes(answer, 1)[0])
		}
	})
}
