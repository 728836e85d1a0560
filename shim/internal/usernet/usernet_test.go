package usernet

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

var guestMAC = net.HardwareAddr{0x02, 1, 2, 3, 4, 5}

// wire is two sockets of frames.
func wire(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs = os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	t.Cleanup(func() { _ = errors.Join(ours.Close(), theirs.Close()) })
	return ours, theirs
}

func frame(to, from net.HardwareAddr, payload ...byte) []byte {
	return slices.Concat(to, from, payload)
}

var (
	guest4, gateway4 = netip.MustParseAddr("192.0.0.2"), netip.MustParseAddr("192.0.0.1")
	guest6, gateway6 = netip.MustParseAddr("fd00::2"), netip.MustParseAddr("fd00::1")
	both             = Config{
		Guests: []netip.Addr{guest4, guest6}, Gateways: []netip.Addr{gateway4, gateway6}, GuestMAC: guestMAC, MTU: 65520,
	}
	four = Config{Guests: both.Guests[:1], Gateways: both.Gateways[:1], GuestMAC: guestMAC, MTU: 65520}
	// The group of the gateway's address, in hardware.
	groupMAC = net.HardwareAddr{0x33, 0x33, 0xff, 0, 0, 1}
)

// packet4 and packet6 are packets of a protocol, with its first byte.
func packet4(to netip.Addr, protocol, first byte) []byte {
	p := slices.Concat(make([]byte, 20), []byte{first})
	p[9] = protocol
	copy(p[16:], to.AsSlice())
	return slices.Concat([]byte{8, 0}, p)
}

func packet6(to netip.Addr, protocol, first byte) []byte {
	p := slices.Concat(make([]byte, 40), []byte{first})
	p[6] = protocol
	copy(p[24:], to.AsSlice())
	return slices.Concat([]byte{0x86, 0xdd}, p)
}

// askARP asks for the hardware address of an IPv4 address.
func askARP(of netip.Addr) []byte {
	f := frame(broadcast, guestMAC, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	return slices.Concat(f, guestMAC, guest4.AsSlice(), make([]byte, 6), of.AsSlice())
}

// solicitation asks for that of an IPv6 address (RFC 4861).
func solicitation(of netip.Addr) []byte {
	group := netip.MustParseAddr("ff02::1:ff00:1")
	message := header.ICMPv6(slices.Concat([]byte{135, 0, 0, 0, 0, 0, 0, 0}, of.AsSlice(), []byte{1, 1}, guestMAC))
	message.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
		Header: message, Src: tcpip.AddrFrom16(guest6.As16()), Dst: tcpip.AddrFrom16(group.As16()),
	}))
	ip := slices.Concat([]byte{0x60, 0, 0, 0, 0, byte(len(message)), 58, 255}, guest6.AsSlice(), group.AsSlice())
	return frame(groupMAC, guestMAC, slices.Concat([]byte{0x86, 0xdd}, ip, message)...)
}

func TestOnlyTheGuestsOwnFramesAreAdmitted(t *testing.T) {
	stranger := net.HardwareAddr{0x02, 9, 9, 9, 9, 9}
	far4, far6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	const tcp, icmp, icmp6, echo6 = 6, 1, 58, 128
	for what, c := range map[string]struct {
		config Config
		frame  []byte
		want   bool
	}{
		"nothing":                    {both, nil, false},
		"a header alone":             {both, frame(gatewayMAC, guestMAC, 8, 6), false},
		"IPv4":                       {both, frame(gatewayMAC, guestMAC, packet4(far4, tcp, 0)...), true},
		"IPv4 of a stranger":         {both, frame(gatewayMAC, stranger, packet4(far4, tcp, 0)...), false},
		"IPv4 to a stranger":         {both, frame(stranger, guestMAC, packet4(far4, tcp, 0)...), false},
		"IPv4 to all":                {both, frame(broadcast, guestMAC, packet4(far4, tcp, 0)...), false},
		"IPv4 cut short":             {both, frame(gatewayMAC, guestMAC, packet4(far4, tcp, 0)[:20]...), false},
		"an echo of the gateway":     {both, frame(gatewayMAC, guestMAC, packet4(gateway4, icmp, 8)...), true},
		"an echo of others":          {both, frame(gatewayMAC, guestMAC, packet4(far4, icmp, 8)...), false},
		"ARP to all":                 {both, askARP(gateway4), true},
		"ARP for another":            {both, askARP(far4), false},
		"ARP cut short":              {both, askARP(gateway4)[:30], false},
		"IPv6":                       {both, frame(gatewayMAC, guestMAC, packet6(far6, tcp, 0)...), true},
		"IPv6 that is not spoken":    {four, frame(gatewayMAC, guestMAC, packet6(far6, tcp, 0)...), false},
		"IPv6 cut short":             {both, frame(gatewayMAC, guestMAC, packet6(far6, tcp, 0)[:42]...), false},
		"a solicitation of a group":  {both, solicitation(gateway6), true},
		"a solicitation of others":   {both, solicitation(far6), false},
		"a solicitation cut short":   {both, solicitation(gateway6)[:70], false},
		"an echo of the gateway's 6": {both, frame(gatewayMAC, guestMAC, packet6(gateway6, icmp6, echo6)...), true},
		"an echo of others' 6":       {both, frame(gatewayMAC, guestMAC, packet6(far6, icmp6, echo6)...), false},
		"what nobody knows":          {both, frame(gatewayMAC, guestMAC, 0x88, 0xb5, 1), false},
	} {
		if got := (&link{config: c.config}).admits(c.frame); got != c.want {
			t.Errorf("%s: %v", what, got)
		}
	}
}

func FuzzAdmits(f *testing.F) {
	f.Add(frame(gatewayMAC, guestMAC, packet4(gateway4, 1, 8)...))
	f.Add(solicitation(gateway6))
	f.Add(askARP(gateway4))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if (&link{config: both}).admits(frame) && !bytes.Equal(frame[6:12], guestMAC) {
			t.Error("a stranger's")
		}
	})
}

// The gateway answers who asks for it, in either family, and the end of the frames is the end.
func TestTheGatewayAnswers(t *testing.T) {
	ours, theirs := wire(t)
	ended := make(chan error, 1)
	go func() { ended <- Serve(ours, both) }()

	exchange(t, theirs, askARP(gateway4), func(f []byte) bool {
		return len(f) >= 42 && bytes.Equal(f[12:14], []byte{8, 6}) && bytes.Equal(f[22:32], slices.Concat(gatewayMAC, gateway4.AsSlice()))
	})

	exchange(t, theirs, solicitation(gateway6), func(f []byte) bool {
		return len(f) >= 14+40+24 && f[14+40] == 136 && bytes.Equal(f[14+40+8:14+40+24], gateway6.AsSlice()) && bytes.Equal(f[6:12], gatewayMAC)
	})

	_ = theirs.Close()
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
}

// exchange sends a frame until the answer comes.
func exchange(t *testing.T, wire *os.File, ask []byte, answered func([]byte) bool) {
	t.Helper()
	answer := make([]byte, 1000)
	_ = wire.SetDeadline(time.Now().Add(time.Minute))
	for {
		if _, err := wire.Write(ask); err != nil {
			t.Fatal(err)
		}
		n, err := wire.Read(answer)
		if err != nil {
			t.Fatal(err)
		}
		if answered(answer[:n]) {
			return
		}
	}
}
