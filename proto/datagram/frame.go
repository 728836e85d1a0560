// Package datagram carries datagrams over a stream between the shim and the guest's agent. At one end is a UDP socket
// that peers send to, at the other is what makes a socket for each of them, so that answers find their way back.
//
// A frame is the datagram's length (2 bytes, big-endian), the number of its peer (4 bytes), and the datagram. Numbers
// are given by the end that has the peers. Either end may be hostile to the other: whatever it says, what is kept is
// bounded.
package datagram

import (
	"bufio"
	"encoding/binary"
	"io"
	"time"
)

const (
	headerSize = 6
	maxSize    = 1<<16 - 1
)

// Limits bound what is kept of peers. The one that has been silent for longest gives way to another, and each does that
// has been so for the idle time.
type Limits struct {
	Peers int
	Idle  time.Duration
}

// frame is where a datagram is read into: the header's room comes first.
type frame [headerSize + maxSize]byte

func (f *frame) room() []byte { return f[headerSize:] }

// whole is the frame of the first n bytes of its room.
func (f *frame) whole(n int, peer uint32) []byte {
	binary.BigEndian.PutUint16(f[0:], uint16(n))
	binary.BigEndian.PutUint32(f[2:], peer)
	return f[:headerSize+n]
}

// reader takes frames from a stream.
type reader struct {
	stream *bufio.Reader
	frame  frame
}

func newReader(stream io.Reader) *reader { return &reader{stream: bufio.NewReader(stream)} }

// next is valid until it is called again. A stream that ends between frames gives io.EOF.
func (r *reader) next() (peer uint32, data []byte, err error) {
	if _, err := io.ReadFull(r.stream, r.frame[:headerSize]); err != nil {
		return 0, nil, err
	}
	data = r.frame.room()[:binary.BigEndian.Uint16(r.frame[0:])]
	if _, err := io.ReadFull(r.stream, data); err != nil {
		return 0, nil, io.ErrUnexpectedEOF
	}
	return binary.BigEndian.Uint32(r.frame[2:]), data, nil
}
