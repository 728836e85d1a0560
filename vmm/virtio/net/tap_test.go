package net

import (
	"bytes"
	"errors"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio/virtiotest"
)

// inNetns runs f on a thread with a network namespace of its own; the thread ends with f.
func inNetns(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			defer close(done)
			f()
			return
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Skipf("no network namespace: %v", err)
	}
}

// newTap makes a tap and its interface with the address 10.0.0.1/8, and a socket in its namespace.
func newTap(t *testing.T) (tap *os.File, socket int) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no tap devices here: %v", err)
	}
	tap = os.NewFile(uintptr(fd), "husk0")
	ifr, err := unix.NewIfreq("husk0")
	if err != nil {
		t.Fatal(err)
	}
	must := func(what string, err error) {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	must("TUNSETIFF", unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr))
	socket, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must("socket", err)
	must("address", ifr.SetInet4Addr([]byte{10, 0, 0, 1}))
	must("SIOCSIFADDR", unix.IoctlIfreq(socket, unix.SIOCSIFADDR, ifr))
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	must("SIOCSIFFLAGS", unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, ifr))
	return tap, socket
}

// receiveUntil takes packets until one satisfies want: a host that comes up has things to say of its own.
func (g *guest) receiveUntil(t *testing.T, want func(frame []byte) bool) []byte {
	for range 50 {
		buf := g.Alloc(2048)
		g.rx.Submit(0, virtiotest.Desc{Addr: buf, Len: 2048, Writable: true})
		_, n := g.rx.Used()
		if p := g.Bytes(buf, int(n)); want(p[headerSize:]) {
			return p
		}
	}
	t.Error("the packet did not come")
	return make([]byte, 2048)
}

// The guest asks who has 10.0.0.1; the host's kernel answers, and may then send to the guest, leaving the checksum
// to it if that was negotiated.
func TestARealTap(t *testing.T) {
	for name, c := range map[string]struct {
		features uint64
		flags    byte
	}{"with checksum offload": {featureGuestCsum | featureMrgRxbuf, flagNeedsCsum}, "without": {0, 0}} {
		t.Run(name, func(t *testing.T) {
			inNetns(t, func() {
				tap, socket := newTap(t)
				if t.Failed() || t.Skipped() {
					return
				}
				defer unix.Close(socket)
				dev, err := New(Config{Taps: []*os.File{tap}, MAC: testMAC})
				if err != nil {
					t.Error(err)
					return
				}
				g := activate(t, dev, c.features)

				broadcast, me := bytes.Repeat([]byte{0xff}, 6), []byte(testMAC)
				arp := bytes.Join([][]byte{
					make([]byte, headerSize), broadcast, me, {8, 6}, // Ethernet
					{0, 1, 8, 0, 6, 4, 0, 1}, me, {10, 0, 0, 2}, make([]byte, 6), {10, 0, 0, 1},
				}, nil)
				g.send(arp)
				reply := g.receiveUntil(t, func(f []byte) bool { return f[12] == 8 && f[13] == 6 && f[21] == 2 })
				if f := reply[headerSize:]; !bytes.Equal(f[:6], testMAC) || !bytes.Equal(f[28:32], []byte{10, 0, 0, 1}) {
					t.Errorf("ARP reply %x", f)
				}

				text := []byte(strings.Repeat("datagram ", 100))
				if err := unix.Sendto(socket, text, 0, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{10, 0, 0, 2}}); err != nil {
					t.Errorf("send: %v", err)
				}
				p := g.receiveUntil(t, func(f []byte) bool { return bytes.HasSuffix(f, text) })
				if p[0]&flagNeedsCsum != c.flags || p[10] != 1 {
					t.Errorf("header %x, want flags %d", p[:headerSize], c.flags)
				}
			})
		})
	}
}

// A tap on which nothing arrives keeps nobody waiting.
func TestResetOfASilentTap(t *testing.T) {
	inNetns(t, func() {
		for range 100 {
			fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				return
			}
			ifr, _ := unix.NewIfreq("husk2")
			ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
			if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
				t.Error(err)
			}
			dev, err := New(Config{Taps: []*os.File{os.NewFile(uintptr(fd), "husk2")}, MAC: testMAC})
			if err != nil {
				t.Error(err)
				return
			}
			g := activate(t, dev, featureMrgRxbuf)
			g.rx.Submit(0, virtiotest.Desc{Addr: g.Alloc(2048), Len: 2048, Writable: true})
			if err := errors.Join(dev.Reset(), dev.Close()); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestATapWithoutHeadersIsRefused(t *testing.T) {
	inNetns(t, func() {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return
		}
		ifr, _ := unix.NewIfreq("husk1")
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
			t.Error(err)
		}
		_, err = New(Config{Taps: []*os.File{os.NewFile(uintptr(fd), "husk1")}, MAC: net.HardwareAddr(testMAC)})
		if err == nil || !strings.Contains(err.Error(), "IFF_VNET_HDR") {
			t.Errorf("error %v", err)
		}
	})
}
