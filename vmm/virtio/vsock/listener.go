package vsock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxHandshakes    = 64
	handshakeTimeout = 10 * time.Second
)

// Serve accepts connections of the host to the guest, until ctx is done or l is closed, and waits for those that
// are not connected yet. A connection begins with "CONNECT <port>\n"; the answer is "OK <host port>\n", or it is
// closed. l is closed in the end.
func (d *Device) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	defer l.Close()

	slots := make(chan struct{}, maxHandshakes)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		accepted, err := l.Accept()
		switch {
		case ctx.Err() != nil, errors.Is(err, net.ErrClosed):
			if err == nil {
				_ = accepted.Close()
			}
			return nil
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOMEM):
			<-slots
			select { // the client waits in the queue until there is room again
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		case err != nil:
			return fmt.Errorf("accept connections to the guest: %w", err)
		}
		wg.Go(func() {
			d.handshake(ctx, accepted)
			<-slots
		})
	}
}

// handshake connects one connection. A client learns that it failed by the connection's end.
func (d *Device) handshake(ctx context.Context, accepted net.Conn) {
	host, ok := accepted.(Conn)
	if !ok {
		_ = accepted.Close()
		return
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = host.SetDeadline(time.Unix(1, 0)) })
	port, err := readConnect(host)
	if !stop() || err != nil {
		_ = host.Close()
		return
	}
	_ = d.Connect(ctx, host, port, func(hostPort uint32) error {
		deadline, _ := ctx.Deadline()
		_ = host.SetWriteDeadline(deadline)
		if _, err := fmt.Fprintf(host, "OK %d\n", hostPort); err != nil {
			return fmt.Errorf("answer a connection to the guest: %w", err)
		}
		return host.SetWriteDeadline(time.Time{})
	})
}

// readConnect reads the line that names the port, and not a byte of what follows it.
func readConnect(r io.Reader) (port uint32, err error) {
	const prefix = "CONNECT "
	const longest = len(prefix) + len("4294967295")
	var line strings.Builder
	for b := make([]byte, 1); ; line.WriteByte(b[0]) {
		if _, err := io.ReadFull(r, b); err != nil {
			return 0, fmt.Errorf("read CONNECT: %w", err)
		}
		if b[0] == '\n' {
			break
		}
		if line.Len() == longest {
			return 0, errors.New("read CONNECT: line is too long")
		}
	}
	digits, ok := strings.CutPrefix(line.String(), prefix)
	if !ok {
		return 0, fmt.Errorf("read CONNECT: %q instead", line.String())
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("read CONNECT: %w", err)
	}
	return uint32(n), nil
}
