package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// message is a request as it came. Its descriptors are its own until taken, and end with close.
type message struct {
	header
	payload []byte // valid until the next read
	fds     []int
}

// takeFD hands the first descriptor over to the caller.
func (m *message) takeFD() int {
	fd := m.fds[0]
	m.fds = m.fds[1:]
	return fd
}

func (m *message) close() {
	for _, fd := range m.fds {
		_ = unix.Close(fd)
	}
	m.fds = nil
}

// conn reads requests and writes replies.
type conn struct {
	*net.UnixConn
	buf [headerSize + maxPayload]byte
	oob []byte
}

func newConn(c *net.UnixConn) *conn {
	return &conn{UnixConn: c, oob: make([]byte, unix.CmsgSpace(4*maxRegions))}
}

// read returns the next request, to be closed. io.EOF when there will be none.
func (c *conn) read() (*message, error) {
	m := new(message)
	if err := c.readInto(m); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

func (c *conn) readInto(m *message) (err error) {
	if err := c.fill(m, c.buf[:headerSize]); err != nil {
		return err
	}
	if m.header, err = decodeHeader(c.buf[:headerSize]); err != nil {
		return err
	}
	m.payload = c.buf[headerSize:][:m.size]
	if err := c.fill(m, m.payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("payload of %s: %w", m.request, err)
	}
	return nil
}

// fill reads all of p, and adds the descriptors that come with it to m.
func (c *conn) fill(m *message, p []byte) error {
	for n := 0; n < len(p); {
		k, oobn, flags, _, err := c.ReadMsgUnix(p[n:], c.oob)
		m.fds = append(m.fds, rights(c.oob[:oobn])...)
		switch {
		case gone(err) && n > 0:
			return io.ErrUnexpectedEOF
		case gone(err):
			return io.EOF
		case err != nil:
			return fmt.Errorf("read: %w", err)
		case flags&unix.MSG_CTRUNC != 0 || len(m.fds) > maxRegions:
			return fmt.Errorf("more than %d descriptors with one message", maxRegions)
		}
		n += k
	}
	return nil
}

// rights are the descriptors in a control message; anything else that may be there has none.
func rights(oob []byte) (fds []int) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range messages {
		if got, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

// gone says whether err means that the other end was closed, or this one by Close.
func gone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

// reply answers r. io.EOF when nobody listens any more.
func (c *conn) reply(r request, payload []byte) error {
	_, err := c.Write(header{request: r, flags: flagVersion | flagReply}.encode(payload))
	switch {
	case gone(err):
		return io.EOF
	case err != nil:
		return fmt.Errorf("reply to %s: %w", r, err)
	}
	return nil
}
