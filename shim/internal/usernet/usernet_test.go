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

func TestOnlyTheGuestsOwnFramesAreRead(t *testing.T) {
	ours, theirs := wire(t)
	stranger := net.HardwareAddr{0x02, 9, 9, 9, 9, 9}
	good := frame(gatewayMAC, guestMAC, 8, 0, 1)
	for _, f := range [][]byte{
		{1}, guestMAC, frame(gatewayMAC, guestMAC, 8, 0), frame(gatewayMAC, stranger, 8, 0, 1), frame(stranger, guestMAC, 8, 0, 1), good,
	} {
		if _, err := theirs.Write(f); err != nil {
			t.Fatal(err)
		}
	}
	p := make([]byte, 100)
	n, err := conn{ours, guestMAC}.Read(p)
	if err != nil || !bytes.Equal(p[:n], good) {
		t.Errorf("% x, %v", p[:n], err)
	}
}

// The gateway answers who asks for it, and the end of the frames is the end.
func TestTheGatewayAnswers(t *testing.T) {
	ours, theirs := wire(t)
	ended := make(chan error, 1)
	go func() {
		ended <- Serve(ours, Config{
			Guest: netip.MustParsePrefix("192.0.0.2/29"), Gateway: netip.MustParsePrefix("192.0.0.1/29"), GuestMAC: guestMAC, MTU: 65520,
		})
	}()
	ask := frame(broadcast, guestMAC, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1) // ARP
	ask = slices.Concat(ask, guestMAC, []byte{192, 0, 0, 2}, make([]byte, 6), []byte{192, 0, 0, 1})
	answer := make([]byte, 1000)
	_ = theirs.SetDeadline(time.Now().Add(time.Minute))
	for {
		if _, err := theirs.Write(ask); err != nil {
			t.Fatal(err)
		}
		n, err := theirs.Read(answer)
		if err != nil {
			t.Fatal(err)
		}
		if n > 40 && bytes.Equal(answer[12:14], []byte{8, 6}) && bytes.Equal(answer[22:32], slices.Concat(gatewayMAC, []byte{192, 0, 0, 1})) {
			break
		}
	}
	_ = theirs.Close()
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
}
