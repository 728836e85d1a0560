package stream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair is the guest's and the host's end of one connection.
func pair(t *testing.T) (guest, host *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = c.(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
	}
	return ends[0], ends[1]
}

func dialTo(c Conn) Dial { return func(context.Context) (Conn, error) { return c, nil } }

func TestAStreamBeginsWithItsLengthPrefixedID(t *testing.T) {
	guest, host := pair(t)
	got := make(chan []byte, 1)
	go func() {
		buf := make([]byte, 6)
		_, _ = io.ReadFull(host, buf)
		got <- buf
		_, _ = host.Write([]byte{1})
	}()
	if _, err := Open(t.Context(), dialTo(guest), "hello"); err != nil {
		t.Fatal(err)
	}
	if b := <-got; !bytes.Equal(b, []byte("\x05hello")) {
		t.Errorf("got %q", b)
	}
}

func TestAnUnknownStreamIsAnError(t *testing.T) {
	guest, host := pair(t)
	go func() {
		_, _ = host.Read(make([]byte, 16))
		host.Close()
	}()
	if _, err := Open(t.Context(), dialTo(guest), "x"); err == nil {
		t.Error("no error")
	}
}

func TestWaitingForTheAnswerEndsWithTheContext(t *testing.T) {
	guest, _ := pair(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, dialTo(guest), "x"); err == nil {
		t.Error("no error")
	}
}

func TestAnIDMustFitItsLengthByte(t *testing.T) {
	for _, id := range []string{"", string(make([]byte, 256))} {
		if _, err := Open(t.Context(), nil, id); err == nil {
			t.Errorf("an id of %d bytes was accepted", len(id))
		}
	}
}

func TestOutputEndsWithAHalfClose(t *testing.T) {
	guest, host := pair(t)
	go Output(guest, bytes.NewReader([]byte("all of it")))
	got, err := io.ReadAll(host)
	if err != nil || string(got) != "all of it" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := host.Write([]byte("x")); err != nil {
		t.Errorf("the other direction has ended too: %v", err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("no reader") }

func TestInputToWhatTakesNoMoreClosesTheConnection(t *testing.T) {
	guest, host := pair(t)
	_, _ = host.Write([]byte("x"))
	Input(failing{}, guest)
	if n, err := host.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes", n)
	}
}
