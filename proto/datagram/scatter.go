package datagram

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Scatter sends what the stream brings from a socket for each peer, which dial makes and connects, and passes back what
// each receives. It returns when the stream has ended, and has closed it and all sockets.
func Scatter(stream io.ReadWriteCloser, limits Limits, dial func() (*net.UDPConn, error)) error {
	s := &scatterer{stream: stream, limits: limits, sockets: map[uint32]*socket{}}
	err := s.scatter(dial)
	_ = stream.Close()
	s.mu.Lock()
	for _, k := range s.sockets {
		_ = k.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
	return err
}

type scatterer struct {
	limits  Limits
	running sync.WaitGroup

	writing sync.Mutex // of whole frames
	stream  io.ReadWriteCloser

	mu      sync.Mutex
	sockets map[uint32]*socket
}

// socket is a peer's.
type socket struct {
	*net.UDPConn
	last atomic.Int64 // when it was used, in Unix time in nanoseconds
}

func (k *socket) touch() { k.last.Store(time.Now().UnixNano()) }

func (k *socket) lastUse() time.Time { return time.Unix(0, k.last.Load()) }

func (s *scatterer) scatter(dial func() (*net.UDPConn, error)) error {
	for r := newReader(s.stream); ; {
		number, data, err := r.next()
		if err != nil {
			return err
		}
		k := s.find(number)
		if k == nil {
			conn, err := dial()
			if err != nil {
				continue // lost, as datagrams are
			}
			k = s.add(number, conn)
		}
		k.touch()
		_, _ = k.Write(data)
	}
}

func (s *scatterer) find(number uint32) *socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sockets[number]
}

func (s *scatterer) add(number uint32, conn *net.UDPConn) *socket {
	k := &socket{UDPConn: conn}
	k.touch()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sockets) >= s.limits.Peers {
		s.makeRoom()
	}
	s.sockets[number] = k
	s.running.Go(func() {
		s.gather(number, k)
		_ = k.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.sockets[number] == k {
			delete(s.sockets, number)
		}
	})
	return k
}

// makeRoom closes the socket that has been silent for longest. The caller holds mu.
func (s *scatterer) makeRoom() {
	var oldest *socket
	var number uint32
	for n, k := range s.sockets {
		if oldest == nil || k.last.Load() < oldest.last.Load() {
			oldest, number = k, n
		}
	}
	if oldest != nil {
		_ = oldest.Close()
		delete(s.sockets, number)
	}
}

// gather passes on what a socket receives, until it is closed or has been silent for too long.
func (s *scatterer) gather(number uint32, k *socket) {
	for {
		_ = k.SetReadDeadline(k.lastUse().Add(s.limits.Idle))
		f, n, err := receive(k.UDPConn)
		switch {
		case err == nil:
			k.touch()
			s.writing.Lock()
			_, err = s.stream.Write(f.whole(n, number))
			s.writing.Unlock()
			frames.Put(f)
			if err != nil {
				return
			}
		case errors.Is(err, unix.ECONNREFUSED): // there was nobody, but there may be
		case time.Since(k.lastUse()) < s.limits.Idle && !errors.Is(err, net.ErrClosed):
		default:
			return
		}
	}
}

var frames = sync.Pool{New: func() any { return new(frame) }}

// receive takes a frame only when there is a datagram: of many sockets most wait.
func receive(conn *net.UDPConn) (f *frame, n int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, 0, err
	}
	waitErr := raw.Read(func(fd uintptr) bool {
		f = frames.Get().(*frame)
		n, _, err = unix.Recvfrom(int(fd), f.room(), unix.MSG_DONTWAIT)
		if err != nil {
			frames.Put(f)
		}
		return !errors.Is(err, unix.EAGAIN)
	})
	return f, n, errors.Join(waitErr, err)
}
