package netcfg

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// conn is a socket of rtnetlink(7). It makes requests one at a time, each of which the kernel acknowledges.
type conn struct {
	fd  int
	seq uint32
}

func dial() (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	return &conn{fd: fd}, nil
}

func (c *conn) close() { _ = unix.Close(c.fd) }

// request is a message under way: a fixed structure, then attributes.
type request []byte

var native = binary.NativeEndian

// newRequest begins with the family's fixed structure, which is given as bytes.
func newRequest(fixed ...byte) request {
	r := append(make(request, unix.NLMSG_HDRLEN, 256), fixed...)
	return r.pad()
}

func (r request) pad() request {
	for len(r)%unix.NLMSG_ALIGNTO != 0 {
		r = append(r, 0)
	}
	return r
}

// add adds an attribute; one without a value is left out.
func (r request) add(kind uint16, value []byte) request {
	if len(value) == 0 {
		return r
	}
	r = native.AppendUint16(r, uint16(unix.SizeofRtAttr+len(value)))
	r = native.AppendUint16(r, kind)
	return append(r, value...).pad()
}

func (r request) add32(kind uint16, value uint32) request {
	return r.add(kind, native.AppendUint32(nil, value))
}

// do sends a request and waits for the answer.
func (c *conn) do(kind, flags uint16, r request) error {
	c.seq++
	native.PutUint32(r[0:], uint32(len(r)))
	native.PutUint16(r[4:], kind)
	native.PutUint16(r[6:], flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	native.PutUint32(r[8:], c.seq)
	if err := unix.Sendto(c.fd, r, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	answer := make([]byte, 4096)
	for {
		n, _, err := unix.Recvfrom(c.fd, answer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		if n < unix.NLMSG_HDRLEN+4 || native.Uint16(answer[4:]) != unix.NLMSG_ERROR || native.Uint32(answer[8:]) != c.seq {
			continue
		}
		if code := int32(native.Uint32(answer[unix.NLMSG_HDRLEN:])); code != 0 {
			return unix.Errno(-code)
		}
		return nil
	}
}
