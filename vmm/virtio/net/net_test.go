package net

import (
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio/virtiotest"
)

var testMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}

type guest struct {
	*virtiotest.Driver
	dev    *Device
	rx, tx *virtiotest.Queue
	tr     *virtiotest.Transport
}

// socketPair is a link that is no tap, and its other end.
func socketPair(t testing.TB) (near, far *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	near, far = os.NewFile(uintptr(fds[0]), "near"), os.NewFile(uintptr(fds[1]), "far")
	_ = far.SetDeadline(time.Now().Add(10 * time.Second))
	t.Cleanup(func() { _ = far.Close() })
	return near, far
}

// plug activates a device whose link is one end of a socket, and returns the other.
func plug(t testing.TB, features uint64) (*guest, *os.File) {
	t.Helper()
	near, far := socketPair(t)
	dev, err := newDevice(Config{MAC: testMAC})
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLink(near)
	if err != nil {
		t.Fatal(err)
	}
	dev.links = []*link{l}
	_ = near.Close()
	return activate(t, dev, features), far
}

func activate(t testing.TB, dev *Device, features uint64) *guest {
	t.Helper()
	g := &guest{Driver: virtiotest.NewDriver(t, 4<<20), dev: dev}
	g.rx, g.tx = g.NewQueue(64), g.NewQueue(64)
	a, tr := g.Activation(features, g.rx, g.tx)
	g.tr = tr
	if err := dev.Activate(a); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = dev.Reset()
		_ = dev.Close()
	})
	return g
}

func (g *guest) send(packet []byte) {
	half := uint32(len(packet) / 2)
	at := g.Put(packet)
	g.tx.Submit(0, virtiotest.Desc{Addr: at, Len: half}, virtiotest.Desc{Addr: at + uint64(half), Len: uint32(len(packet)) - half})
	g.tx.Used()
}

func packet(flags, gso byte, payload string) []byte {
	return append([]byte{flags, gso, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, payload...)
}

func TestPacketsOfTheGuestReachTheHost(t *testing.T) {
	g, host := plug(t, featureCsum|featureHostTSO4)
	for _, p := range [][]byte{
		packet(0, 0, "first"), packet(flagNeedsCsum, 0, "second"), packet(flagNeedsCsum, gsoTCPv4, strings.Repeat("x", 60000)),
	} {
		p[10] = 77 // num_buffers means nothing here
		g.send(p)
		got := make([]byte, 1<<17)
		n, err := host.Read(got)
		p[10] = 0
		if err != nil || !bytes.Equal(got[:n], p) {
			t.Fatalf("%d bytes, %v; want %d", n, err, len(p))
		}
	}
}

func TestPacketsThatAskForMoreThanNegotiatedAreDropped(t *testing.T) {
	g, host := plug(t, featureCsum|featureHostTSO6)
	for name, p := range map[string][]byte{
		"unknown flag":         packet(4, 0, "drop"),
		"TSO4":                 packet(flagNeedsCsum, gsoTCPv4, "drop"),
		"TSO6 without a csum":  packet(0, gsoTCPv6, "drop"),
		"TSO6 with ECN":        packet(flagNeedsCsum, gsoTCPv6|gsoECN, "drop"),
		"ECN alone":            packet(0, gsoECN, "drop"),
		"UFO":                  packet(flagNeedsCsum, 3, "drop"),
		"no frame":             packet(0, 0, ""),
		"longer than a packet": packet(0, 0, strings.Repeat("x", maxFrame+1)),
	} {
		g.send(p)
		g.send(packet(0, 0, "next"))
		got := make([]byte, 1<<17)
		if n, err := host.Read(got); err != nil || string(got[headerSize:n]) != "next" {
			t.Errorf("%s: %d bytes came through, %v", name, n, err)
		}
	}
}

func TestChecksumNeedsItsFeature(t *testing.T) {
	g, host := plug(t, 0)
	g.send(packet(flagNeedsCsum, 0, "drop"))
	g.send(packet(0, 0, "next"))
	got := make([]byte, 100)
	if n, err := host.Read(got); err != nil || string(got[headerSize:n]) != "next" {
		t.Errorf("%q, %v", got[:n], err)
	}
}

func TestAFullHostLosesPacketsRatherThanHoldTheGuest(t *testing.T) {
	g, host := plug(t, 0)
	for range 2000 { // far more than the socket takes
		g.send(packet(0, 0, "x"))
	}
	if _, err := host.Read(make([]byte, 100)); err != nil {
		t.Error(err)
	}
}

// receive gives the device buffers of size bytes each.
func (g *guest) receive(n int, size uint32) (bufs []uint64) {
	for i := range n {
		at := g.Alloc(int(size))
		g.rx.Submit(uint16(i), virtiotest.Desc{Addr: at, Len: size, Writable: true})
		bufs = append(bufs, at)
	}
	return bufs
}

func TestAPacketFillsOneBuffer(t *testing.T) {
	g, host := plug(t, featureGuestCsum)
	bufs := g.receive(2, 2048)
	for i, text := range []string{"first", "second"} {
		want := packet(flagNeedsCsum, 0, text)
		if _, err := host.Write(want); err != nil {
			t.Fatal(err)
		}
		want[10] = 1 // num_buffers, with or without MRG_RXBUF
		if head, n := g.rx.Used(); int(head) != i || !bytes.Equal(g.Bytes(bufs[i], int(n)), want) {
			t.Errorf("buffer %d: %q", head, g.Bytes(bufs[i], int(n)))
		}
	}
}

func TestALargePacketIsMergedFromSeveralBuffers(t *testing.T) {
	g, host := plug(t, featureMrgRxbuf|featureGuestCsum|featureGuestTSO4)
	bufs := g.receive(5, 1500)
	want := packet(flagNeedsCsum, gsoTCPv4, strings.Repeat("0123456789", 500))
	if _, err := host.Write(want); err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint16(want[10:], 4)
	var got []byte
	for i := range 4 {
		head, n := g.rx.Used()
		if int(head) != i {
			t.Errorf("buffer %d at place %d", head, i)
		}
		got = append(got, g.Bytes(bufs[head], int(n))...)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes, want %d", len(got), len(want))
	}
	if _, _, err := g.rx.UsedWithin(time.Millisecond); err == nil {
		t.Error("the fifth buffer is used as well")
	}
}

func TestALargePacketWaitsForItsBuffers(t *testing.T) {
	g, host := plug(t, featureMrgRxbuf)
	g.receive(2, 1024)
	if _, err := host.Write(packet(0, 0, strings.Repeat("x", 3000))); err != nil {
		t.Fatal(err)
	}
	if _, _, err := g.rx.UsedWithin(20 * time.Millisecond); err == nil {
		t.Fatal("part of a packet is seen")
	}
	g.rx.Submit(2, virtiotest.Desc{Addr: g.Alloc(1024), Len: 1024, Writable: true})
	for i := range uint16(3) {
		if head, _ := g.rx.Used(); head != i {
			t.Errorf("buffer %d at place %d", head, i)
		}
	}
}

func TestWithoutMergingATooLargePacketIsLost(t *testing.T) {
	g, host := plug(t, 0)
	bufs := g.receive(1, 100)
	for _, text := range []string{strings.Repeat("x", 100), "fits"} {
		if _, err := host.Write(packet(0, 0, text)); err != nil {
			t.Fatal(err)
		}
	}
	if _, n := g.rx.Used(); string(g.Bytes(bufs[0], int(n))[headerSize:]) != "fits" {
		t.Errorf("%q", g.Bytes(bufs[0], int(n)))
	}
}

func TestFlagsAreClearedWithoutGuestCsum(t *testing.T) {
	g, host := plug(t, 0)
	bufs := g.receive(1, 100)
	if _, err := host.Write(packet(2, 0, "valid")); err != nil { // DATA_VALID, as a tap says
		t.Fatal(err)
	}
	if _, n := g.rx.Used(); g.Bytes(bufs[0], int(n))[0] != 0 {
		t.Error("flags are set")
	}
}

func TestOffences(t *testing.T) {
	const in = virtiotest.Base
	for name, submit := range map[string]func(g *guest){
		"half a header":          func(g *guest) { g.tx.Submit(0, virtiotest.Desc{Addr: in, Len: 11}) },
		"writable packet":        func(g *guest) { g.tx.Submit(0, virtiotest.Desc{Addr: in, Len: 64, Writable: true}) },
		"readable buffer":        func(g *guest) { g.rx.Submit(0, virtiotest.Desc{Addr: in, Len: 64}) },
		"buffer below a header":  func(g *guest) { g.rx.Submit(0, virtiotest.Desc{Addr: in, Len: 11, Writable: true}) },
		"buffer outside of RAM":  func(g *guest) { g.rx.Submit(0, virtiotest.Desc{Addr: 0, Len: 64, Writable: true}) },
		"packet outside of RAM":  func(g *guest) { g.tx.Submit(0, virtiotest.Desc{Addr: 0, Len: 64}) },
		"header in two, too few": func(g *guest) { g.tx.Submit(0, virtiotest.Desc{Addr: in, Len: 6}, virtiotest.Desc{Addr: in, Len: 5}) },
	} {
		t.Run(name, func(t *testing.T) {
			g, _ := plug(t, featureMrgRxbuf)
			submit(g)
			select {
			case <-g.tr.Failed:
			case <-time.After(10 * time.Second):
				t.Error("the device did not fail")
			}
		})
	}
}

func TestResetEndsTheWaitForPacketsAndForBuffers(t *testing.T) {
	g, host := plug(t, 0)
	g.receive(1, 100) // now it waits for a packet
	for range 3 {
		if err := g.dev.Reset(); err != nil {
			t.Fatal(err)
		}
		g.rx, g.tx = g.NewQueue(4), g.NewQueue(4)
		a, _ := g.Activation(0, g.rx, g.tx) // and now for a buffer
		if err := g.dev.Activate(a); err != nil {
			t.Fatal(err)
		}
	}
	bufs := g.receive(1, 100)
	if _, err := host.Write(packet(0, 0, "again")); err != nil {
		t.Fatal(err)
	}
	if _, n := g.rx.Used(); string(g.Bytes(bufs[0], int(n))[headerSize:]) != "again" {
		t.Error("another packet")
	}
}

func TestConfigurationSpaceAndFeatures(t *testing.T) {
	dev, err := newDevice(Config{MAC: testMAC, MTU: 1450})
	if err != nil {
		t.Fatal(err)
	}
	dev.links = make([]*link, 1)
	var b [14]byte
	dev.ReadConfig(b[:], 0)
	if want := [14]byte{2, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0xaa, 5}; b != want {
		t.Errorf("%v, want %v", b, want)
	}
	if dev.Features()&featureMTU == 0 || (&Device{}).Features()&featureMTU != 0 {
		t.Error("the MTU feature does not follow the configuration")
	}
}

func TestOffloadFollowsTheFeatures(t *testing.T) {
	for features, want := range map[uint64]int{
		0:                                   0,
		featureGuestTSO4:                    0,
		featureGuestCsum:                    unix.TUN_F_CSUM,
		featureGuestCsum | featureGuestECN:  unix.TUN_F_CSUM,
		featureGuestCsum | featureGuestTSO6: unix.TUN_F_CSUM | unix.TUN_F_TSO6,
		featureGuestCsum | featureGuestTSO4 | featureGuestECN: unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO_ECN,
	} {
		if got := tunOffload(features); got != want {
			t.Errorf("features %#x: %#x, want %#x", features, got, want)
		}
	}
}

func TestNewNamesWhatIsWrong(t *testing.T) {
	open := func() *os.File {
		f, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	for want, cfg := range map[string]Config{
		"a tap of 0 queues":          {},
		`"" is not the hardware`:     {Taps: []*os.File{open()}},
		`"01:00:00:00:00:01" is not`: {Taps: []*os.File{open()}, MAC: net.HardwareAddr{1, 0, 0, 0, 0, 1}},
		"MTU 67":                     {Taps: []*os.File{open()}, MAC: testMAC, MTU: 67},
		"/dev/null: not a tap":       {Taps: []*os.File{open()}, MAC: testMAC},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
		if cfg.Taps != nil && cfg.Taps[0].Close() == nil {
			t.Errorf("%s: New left the tap open", want)
		}
	}
}
