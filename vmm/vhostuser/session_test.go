package vhostuser

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/queue"
	"github.com/huskvm/husk/vmm/virtio/virtiotest"
)

func (f *frontEnd) want(activations, resets, queues int32) {
	f.t.Helper()
	d := f.device
	if a, r, q := d.activations.Load(), d.resets.Load(), d.queues.Load(); a != activations || r != resets || q != queues {
		f.t.Fatalf("%d activations, %d resets, %d queues; want %d, %d, %d", a, r, q, activations, resets, queues)
	}
}

func TestFrontEndFindsTheDevice(t *testing.T) {
	f := connect(t)
	for r, want := range map[request]uint64{
		getFeatures:         guestFeatures | featureProtocol,
		getProtocolFeatures: 1<<0 | 1<<3 | 1<<5 | 1<<9 | 1<<13,
		getQueueNum:         2,
	} {
		if got := order.Uint64(f.ask(r, nil)); got != want {
			t.Errorf("%s: %#x, want %#x", r, got, want)
		}
	}
}

func TestChainGoesRound(t *testing.T) {
	f := connect(t)
	q := f.start()
	f.want(1, 0, 2)
	f.echo(0, q[0], "hello")
	f.echo(1, q[1], "there")
	f.echo(0, q[0], "again")
}

// A chain and its kick may be there before the ring is.
func TestKickFromBeforeTheStartCounts(t *testing.T) {
	f := connect(t)
	f.negotiate(guestFeatures | featureProtocol)
	var q [2]*virtiotest.Queue
	for i := range q {
		q[i] = f.driver.NewQueue(16)
	}
	answer := f.submit(q[0], 0, "early")
	if err := f.kick[0].Signal(); err != nil {
		t.Fatal(err)
	}
	for i := range q {
		f.startRing(uint32(i), 0, q[i].Config)
	}
	f.want(0, 0, 0)
	f.enable(1)
	f.answered(0, q[0], answer, "early")
}

func TestMemoryBeyondTheFirstRegion(t *testing.T) {
	f := connect(t)
	f.driver.Alloc(ramSize / 2) // rings and buffers are in the second one
	q := f.start()
	f.echo(0, q[0], "high")
}

func TestRingsGoOnWhereTheyStopped(t *testing.T) {
	f := connect(t)
	q := f.start()
	for range 3 {
		f.echo(0, q[0], "before")
	}
	for i, want := range []uint32{3, 0} {
		if got := decodeRingState(f.ask(getVringBase, state(uint32(i), 0))); got != (ringState{uint32(i), want}) {
			t.Errorf("ring %d stopped at %+v, want %d", i, got, want)
		}
	}
	f.want(1, 1, 2)
	answer := f.submit(q[0], 4, "while stopped")
	f.startRing(0, 3, q[0].Config)
	f.startRing(1, 0, q[1].Config)
	f.want(2, 1, 2) // enabled they still are
	f.answered(0, q[0], answer, "while stopped")
	f.echo(1, q[1], "other")
	f.enable(0)
	if got := decodeRingState(f.ask(getVringBase, state(0, 0))); got.num != 4 {
		t.Errorf("stopped at %d, want 4", got.num)
	}
}

// The indices wrap at 65536, whatever the ring's size.
func TestRingGoesOnAtTheLastIndex(t *testing.T) {
	f := connect(t)
	f.negotiate(guestFeatures | featureProtocol)
	q := f.driver.NewQueue(16)
	q.Config.Start = 0xffff
	for _, ring := range []uint64{q.Config.Driver, q.Config.Device} {
		w, err := f.driver.Memory.WordAt(ring + 2)
		if err != nil {
			t.Fatal(err)
		}
		w.Store(0xffff)
	}
	q.SkipUsed()
	f.startRing(0, 0xffff, q.Config)
	f.enable(1)
	f.echo(0, q, "last")
	f.echo(0, q, "first")
	if got := decodeRingState(f.ask(getVringBase, state(0, 0))); got.num != 1 {
		t.Errorf("stopped at %d, want 1", got.num)
	}
}

func TestDisabledRingStopsTheDevice(t *testing.T) {
	f := connect(t)
	q := f.start()
	f.echo(0, q[0], "on")
	f.do(setVringEnable, state(1, 0))
	f.want(1, 1, 2)
	answer := f.submit(q[0], 0, "off")
	_ = f.kick[0].Signal()
	f.do(setVringEnable, state(1, 1))
	f.want(2, 1, 2)
	f.answered(0, q[0], answer, "off")
}

// QEMU enables all rings of a disk, and starts those that the driver has set up.
func TestRingThatIsNeverStartedIsLeftOut(t *testing.T) {
	f := connect(t)
	f.negotiate(guestFeatures | featureProtocol)
	q := f.driver.NewQueue(16)
	f.startRing(0, 0, q.Config)
	f.enable(1)
	f.want(1, 0, 1)
	f.echo(0, q, "alone")
}

func TestWithoutProtocolFeaturesAllRingsMustBeStarted(t *testing.T) {
	f := connect(t)
	f.negotiate(guestFeatures)
	q := f.driver.NewQueue(16)
	f.startRing(0, 0, q.Config)
	f.want(0, 0, 0)
	f.startRing(1, 0, f.driver.NewQueue(16).Config)
	f.want(1, 0, 2)
	f.echo(0, q, "enabled from the first")
}

func TestMemoryIsReplacedWhileTheDeviceRests(t *testing.T) {
	f := connect(t)
	q := f.start()
	f.echo(0, q[0], "one")
	f.do(setMemTable, encodeTable(region{guest: virtiotest.Base, size: ramSize, user: lowUser}), int(f.ram.Fd()))
	f.want(2, 1, 2)
	f.echo(0, q[0], "two")
	f.do(resetDevice, nil)
	f.want(2, 2, 2)
}

// What a guest can do is no fault of the front end's: it has its device back after a reset.
func TestGuestsMistakeIsNotTheSessionsEnd(t *testing.T) {
	good := queue.Config{Size: 16}
	for name, change := range map[string]func(*ringAddr, *queue.Config, *uint64){
		"ring outside of memory": func(a *ringAddr, _ *queue.Config, _ *uint64) { a.desc = 1 << 50 },
		"ring at the very end":   func(a *ringAddr, _ *queue.Config, _ *uint64) { a.used = highUser + ramSize/2 - 16 },
		"odd size":               func(_ *ringAddr, c *queue.Config, _ *uint64) { c.Size = 12 },
		"legacy driver":          func(_ *ringAddr, _ *queue.Config, f *uint64) { *f &^= virtio.FeatureVersion1 },
		"feature not offered":    func(_ *ringAddr, _ *queue.Config, f *uint64) { *f |= 1 << 9 },
	} {
		t.Run(name, func(t *testing.T) {
			f := connect(t)
			features, cfg := guestFeatures|featureProtocol, good
			q := f.driver.NewQueue(16)
			addr := addrOf(0, q.Config)
			change(&addr, &cfg, &features)
			f.negotiate(features)
			f.startRing(0, 0, q.Config)
			f.do(setVringNum, state(0, uint32(cfg.Size)))
			f.do(setVringAddr, addr.encode())
			f.enable(1)
			f.want(0, 0, 0)
			f.wait(f.err)

			f.enable(0)
			f.do(setFeatures, encodeU64(guestFeatures|featureProtocol))
			f.startRing(0, 0, q.Config)
			f.enable(1)
			f.echo(0, q, "better now")
		})
	}
}

func TestOffenceOnARingSignalsTheErrorDescriptor(t *testing.T) {
	f := connect(t)
	q := f.start()
	q[0].SetAvailIndex(1000)
	_ = f.kick[0].Signal()
	f.wait(f.err)
	f.enable(0)
	f.want(1, 1, 2)
}

func TestDeviceThatCannotStartIsReset(t *testing.T) {
	f := connect(t)
	f.device.broken.Store(true)
	f.start()
	f.wait(f.err)
	f.want(1, 1, 2)
}

func TestConfigurationSpace(t *testing.T) {
	f := connect(t)
	f.negotiate(guestFeatures | featureProtocol)
	f.do(setConfig, configAccess{offset: 2, data: []byte("abc")}.encode())
	for _, c := range []struct {
		offset uint32
		want   string
	}{{0, "\x00\x00abc\x00\x00\x00"}, {3, "bc\x00\x00\x00\x00"}, {1 << 31, "\x00\x00"}, {0, ""}} {
		ask := configAccess{offset: c.offset, flags: 1, data: make([]byte, len(c.want))}
		got, err := decodeConfig(f.ask(getConfig, ask.encode()))
		if err != nil || got.offset != c.offset || got.flags != 1 || string(got.data) != c.want {
			t.Errorf("at %d: %q, want %q (%v)", c.offset, got.data, c.want, err)
		}
	}
}

func TestChangeOfTheConfigurationIsTold(t *testing.T) {
	f := connect(t)
	ours, theirs := connPair(t)
	f.start()
	file, err := theirs.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	f.do(setBackendReqFD, nil, int(file.Fd()))
	f.device.transport.Load().(virtio.Transport).ConfigChanged()
	_ = ours.SetReadDeadline(time.Now().Add(deadline))
	var b [headerSize]byte
	if _, err := io.ReadFull(ours, b[:]); err != nil {
		t.Fatal(err)
	}
	if h := (header{request(order.Uint32(b[:])), order.Uint32(b[4:]), order.Uint32(b[8:])}); h != (header{2, 1, 0}) {
		t.Errorf("%+v", h)
	}
}

func TestRefusalIsAnswered(t *testing.T) {
	f := connect(t)
	f.negotiate(guestFeatures | featureProtocol)
	for name, c := range map[string]struct {
		r       request
		payload []byte
		fds     []int
	}{
		"polled ring":         {setVringKick, encodeU64(vringNoFD), nil},
		"packed ring":         {setVringBase, state(0, 1<<16), nil},
		"log of writes":       {setVringAddr, ringAddr{flags: 1}.encode(), nil},
		"migration's config":  {setConfig, configAccess{flags: 1}.encode(), nil},
		"unknown request":     {request(99), nil, nil},
		"protocol feature":    {setProtocolFeatures, encodeU64(protocolReplyAck | 1<<1), nil},
		"memory of no file":   {setMemTable, encodeTable(region{size: 4096}), []int{f.kick[0].FD()}},
		"memory that ends":    {setMemTable, encodeTable(region{size: ramSize, offset: 1}), []int{int(f.ram.Fd())}},
		"memory that is huge": {setMemTable, encodeTable(region{size: 1 << 62}), []int{int(f.ram.Fd())}},
		"memory twice": {setMemTable, encodeTable(region{size: 4096}, region{guest: 4095, size: 4096}),
			[]int{int(f.ram.Fd()), int(f.ram.Fd())}},
	} {
		if got := f.try(c.r, c.payload, c.fds...); got != 1 {
			t.Errorf("%s: answer %d, want 1", name, got)
		}
	}
	f.do(setMemTable, ramTable, int(f.ram.Fd()), int(f.ram.Fd()))
	q := f.driver.NewQueue(16)
	f.startRing(0, 0, q.Config)
	f.enable(1)
	f.echo(0, q, "still here")
}

func TestRefusalThatCannotBeAnsweredEndsTheSession(t *testing.T) {
	f := connect(t)
	f.send(setVringKick, encodeU64(vringNoFD))
	if err := f.over(); err == nil || !strings.Contains(err.Error(), "SET_VRING_KICK: ring 0 without a kick: rings are not polled") {
		t.Error(err)
	}
}

func TestBrokenFrontEndIsTold(t *testing.T) {
	bytesOf := func(r request, flags uint32, payload []byte) []byte {
		return header{request: r, flags: flags}.encode(payload)
	}
	short := bytesOf(setFeatures, 1, encodeU64(1))
	for name, c := range map[string]struct {
		bytes []byte
		fds   int
		want  string
	}{
		"version":             {bytesOf(setOwner, 2, nil), 0, "version 2"},
		"reply as a request":  {bytesOf(setOwner, 5, nil), 0, "flags 0x5"},
		"payload too large":   {bytesOf(setConfig, 1, make([]byte, 300)), 0, "at most 268"},
		"payload too small":   {bytesOf(setFeatures, 1, make([]byte, 4)), 1, "payload of 4 bytes"},
		"payload of none":     {bytesOf(setOwner, 1, make([]byte, 4)), 0, "payload of 4 bytes"},
		"payload cut":         {short[:len(short)-1], 1, "unexpected EOF"},
		"header cut":          {short[:3], 1, "unexpected EOF"},
		"descriptors unasked": {bytesOf(setOwner, 1, nil), 1, "1 descriptors"},
		"descriptors galore":  {bytesOf(setMemTable, 1, ramTable), 9, "more than 8 descriptors"},
		"descriptors missing": {bytesOf(setMemTable, 1, ramTable), 1, "1 descriptors for 2 regions"},
		"table cut":           {bytesOf(setMemTable, 1, ramTable[:40]), 2, "2 regions in 40 bytes"},
		"table empty":         {bytesOf(setMemTable, 1, encodeTable()), 0, "0 regions"},
		"region empty":        {bytesOf(setMemTable, 1, encodeTable(region{})), 1, "empty or too large"},
		"region wraps":        {bytesOf(setMemTable, 1, encodeTable(region{size: 2, user: ^uint64(0)})), 1, "empty or too large"},
		"kick missing":        {bytesOf(setVringKick, 1, encodeU64(0)), 0, "0 descriptors"},
		"kick against flag":   {bytesOf(setVringKick, 1, encodeU64(vringNoFD)), 1, "1 descriptors"},
		"kick of no ring":     {bytesOf(setVringKick, 1, encodeU64(2)), 1, "ring 2 of 2"},
		"kick with more bits": {bytesOf(setVringKick, 1, encodeU64(1<<9)), 1, "0x200"},
		"ring of none":        {bytesOf(getVringBase, 1, state(1<<31, 0)), 0, "ring 2147483648 of 2"},
		"half enabled":        {bytesOf(setVringEnable, 1, state(0, 2)), 0, "neither"},
		"channel missing":     {bytesOf(setBackendReqFD, 1, nil), 0, "no descriptor"},
		"config cut":          {bytesOf(getConfig, 1, configAccess{data: make([]byte, 4)}.encode()[:14]), 0, "4 bytes with 2"},
	} {
		t.Run(name, func(t *testing.T) {
			f := connect(t)
			f.start()
			var fds []int
			for range c.fds {
				fds = append(fds, int(f.ram.Fd()))
			}
			f.write(c.bytes, fds...)
			_ = f.conn.CloseWrite()
			if err := f.over(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			f.want(1, 1, 2)
			if n, err := f.conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("the connection is open: %d, %v", n, err)
			}
		})
	}
}
