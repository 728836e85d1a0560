// Package stream carries a process's standard streams to the host, each on a connection of its own.
//
// The protocol is at the head of agent.proto: the guest dials, names the stream, waits for the host's yes; from
// there on the bytes are the stream's, and its end is the half-close. It is called by package process.
package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// MaxID is the length of the longest id: it is sent in one byte.
const MaxID = 255

// accepted is the host's answer to an id that it knows.
const accepted = 1

// bufferSize is what one read takes at most: a whole pipe, and the largest packet of virtio-vsock.
const bufferSize = 64 << 10

// Conn is a connection whose two directions end separately.
type Conn interface {
	io.ReadWriteCloser
	CloseWrite() error
	SetDeadline(time.Time) error
}

// Dial makes a connection to the host's port for streams.
type Dial func(context.Context) (Conn, error)

// Open dials and announces the stream. The caller closes the connection.
func Open(ctx context.Context, dial Dial, id string) (Conn, error) {
	if id == "" || len(id) > MaxID {
		return nil, fmt.Errorf("stream id %q is not between 1 and %d bytes long", id, MaxID)
	}
	conn, err := dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", id, err)
	}
	if err := announce(ctx, conn, id); err != nil {
		conn.Close()
		return nil, fmt.Errorf("open stream %s: %w", id, err)
	}
	return conn, nil
}

func announce(ctx context.Context, conn Conn, id string) error {
	// A cancelled context must end the wait for the answer as well.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(append([]byte{byte(len(id))}, id...)); err != nil {
		return err
	}
	var answer [1]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return errors.New("the host does not know this stream")
		}
		return err
	}
	if answer[0] != accepted {
		return fmt.Errorf("the host answered %d", answer[0])
	}
	if !stop() {
		return context.Cause(ctx)
	}
	return nil
}

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// Copy moves bytes from r to w until r ends or either fails, through a buffer that is reused.
func Copy(w io.Writer, r io.Reader) error {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	for {
		n, rerr := r.Read(buf[:])
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(rerr, io.EOF) {
			return nil
		}
		if rerr != nil {
			return rerr
		}
	}
}

// Output sends what r gives until it ends, and then the end. If the host has gone, r is still emptied: a process
// does not stand still because nobody listens.
func Output(conn Conn, r io.Reader) {
	if err := Copy(conn, r); err != nil {
		_ = Copy(io.Discard, r)
	}
	_ = conn.CloseWrite()
}

// Input passes what the host sends on to w until the host ends it. If w takes no more, the connection is closed,
// which tells the host's writer what a pipe without readers would.
func Input(w io.Writer, conn Conn) {
	if Copy(w, conn) != nil {
		_ = conn.Close()
	}
}
