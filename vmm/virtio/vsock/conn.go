package vsock

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Conn is the host's side of one connection; *net.UnixConn is one. It is read and written through SyscallConn, so
// that bytes move between the socket and the guest's buffers without a copy in between.
type Conn interface {
	net.Conn
	syscall.Conn
	CloseRead() error
	CloseWrite() error
}

// address names a connection: host and guest CID are always the same.
type address struct {
	guestPort, hostPort uint32
}

// conn joins a stream with the host's side. Its goroutines exist only while there is something to wait for: one
// until the socket has data, one until it takes the backlog.
type conn struct {
	address
	backlog  backlog
	accepted chan struct{} // closed when a connection of ours is answered

	// All below belongs to mux.mu. host and raw are set once, before the stream is open.
	stream
	host        Conn
	raw         syscall.RawConn
	links       [queueCount]link
	calling     bool // Host.Dial is in progress
	established bool // the guest has accepted a connection of ours
	flushing    bool // somebody else than the tx worker writes to host
	waiting     bool // a goroutine waits for host to become readable
	readable    bool // as far as known
}

// act does what hostward asked for.
func (c *conn) act(a action) {
	if a == 0 || c.host == nil { // in this order: without an action, host may be set at this moment
		return
	}
	// Errors mean that the peer has gone already.
	if a&(closeRead|drain) != 0 {
		_ = c.host.CloseRead()
	}
	if a&closeWrite != 0 {
		_ = c.host.CloseWrite()
	}
	if a&drain != 0 {
		discard(c.raw)
	}
	if a&release != 0 {
		_ = c.host.Close()
	}
}

// discard reads what is left in a socket that can receive no more.
func discard(raw syscall.RawConn) {
	// Control, as Read would wait for a goroutine that waits for data.
	_ = raw.Control(func(fd uintptr) {
		c := chunks.Get().(*chunk)
		defer chunks.Put(c)
		for {
			n, _, err := unix.Recvfrom(int(fd), c.data[:], unix.MSG_DONTWAIT)
			if err != unix.EINTR && (err != nil || n <= 0) {
				return
			}
		}
	})
}

// write blocks until host has taken some of p, or never will.
func (c *conn) write(p []byte) (n int, err error) {
	rawErr := c.raw.Write(func(fd uintptr) bool {
		for {
			n, err = unix.Write(int(fd), p)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	if rawErr != nil {
		return 0, rawErr
	}
	return max(n, 0), err
}

// wait blocks until host has one of events or has hung up.
func (c *conn) wait(events int16) (got int16, err error) {
	err = c.raw.Read(func(fd uintptr) bool {
		fds := [1]unix.PollFd{{Fd: int32(fd), Events: events}}
		if n, _ := unix.Poll(fds[:], 0); n <= 0 {
			return false
		}
		got = fds[0].Revents
		return true
	})
	return got, err
}

// The queues a connection can be in.
const (
	controlQueue = iota
	dataQueue
	queueCount
)

type link struct {
	next   *conn
	queued bool
}

func (c *conn) queued() bool {
	return c.links[controlQueue].queued || c.links[dataQueue].queued
}

// turns is a first-in first-out queue of connections, each at most once: so they take turns.
type turns struct {
	which      int
	head, tail *conn
}

func (q *turns) push(c *conn) {
	l := &c.links[q.which]
	if l.queued {
		return
	}
	l.queued = true
	if q.tail == nil {
		q.head = c
	} else {
		q.tail.links[q.which].next = c
	}
	q.tail = c
}

func (q *turns) pop() *conn {
	c := q.head
	if c == nil {
		return nil
	}
	l := &c.links[q.which]
	if q.head = l.next; q.head == nil {
		q.tail = nil
	}
	*l = link{}
	return c
}
