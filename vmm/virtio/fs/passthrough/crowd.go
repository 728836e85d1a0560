package passthrough

import (
	"time"

	"golang.org/x/sys/unix"
)

// A client remembers what it has looked up for as long as it has memory, and knows nothing of descriptors. So it is to
// be told, by whoever can, to forget: when its nodes and handles come near the limit, Crowded says so, and at the limit a
// request waits a moment for room before it fails with ENFILE.

// roomTime is how long a request waits for room.
const roomTime = 3 * time.Second

// Crowded receives when the client should forget what it does not use.
func (s *Server) Crowded() <-chan struct{} { return s.crowded }

// noteCrowd is called with the session locked, after what it counts has grown.
func (s *session) noteCrowd() {
	if n := s.count(); !s.told && n >= s.limit-s.limit/4 {
		s.told = true
		s.cry()
	}
}

func (s *session) cry() {
	select {
	case s.crowded <- struct{}{}:
	default: // nobody has listened to the last one yet
	}
}

// noteRoom is called with the session locked, after what it counts has shrunk.
func (s *session) noteRoom() {
	if s.room != nil {
		close(s.room)
		s.room = nil
	}
	if s.count() < s.limit/2 {
		s.told, s.hopeless = false, false
	}
}

func (s *session) count() int { return len(s.nodes) + len(s.handles) }

// makeRoom is called with the session locked, and returns so; while it waits, the session is not. Once that was in vain
// nobody waits again until there is a lot of room.
func (s *session) makeRoom() unix.Errno {
	end := time.After(roomTime)
	for s.count() >= s.limit {
		if s.hopeless || !s.awaitRoom(end) {
			s.hopeless = true
			return unix.ENFILE
		}
	}
	return 0
}

func (s *session) awaitRoom(end <-chan time.Time) bool {
	s.cry()
	if s.room == nil {
		s.room = make(chan struct{})
	}
	room := s.room
	s.mu.Unlock()
	defer s.mu.Lock()
	select {
	case <-room:
		return true
	case <-end:
		return false
	}
}
