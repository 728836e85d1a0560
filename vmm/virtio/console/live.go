package console

import (
	"bytes"
	"io"
	"sync"
	"time"
)

const (
	liveBuffer = 64 << 10 // what may wait for the reader
	livePiece  = 4 << 10  // what is given to it at once
	patience   = time.Second
)

// live hands bytes to a writer that may be slow or stuck. The guest waits for it while it makes progress; once it
// has made none for as long as patience, bytes are dropped until it takes some again.
type live struct {
	w     io.Writer
	taken chan struct{} // the reader has taken a piece
	more  chan struct{} // there is something to take
	ended chan struct{} // closed by drain

	mu     sync.Mutex
	buf    bytes.Buffer
	stuck  bool
	closed bool
}

func newLive(w io.Writer) *live {
	l := &live{w: w, taken: make(chan struct{}, 1), more: make(chan struct{}, 1), ended: make(chan struct{})}
	go l.drain()
	return l
}

// write takes all of p, sooner or later, or drops its end: at once when quit is closed. One goroutine at a time.
func (l *live) write(p []byte, quit <-chan struct{}) {
	for {
		if p = p[l.put(p):]; len(p) == 0 {
			return
		}
		timeout := time.NewTimer(patience)
		select {
		case <-l.taken:
		case <-l.ended:
			timeout.Stop()
			return
		case <-quit:
			timeout.Stop()
			return
		case <-timeout.C:
			l.mu.Lock()
			l.stuck = true
			l.mu.Unlock()
		}
		timeout.Stop()
	}
}

// put buffers the beginning of p and returns how much that was; all of it when the rest is to be dropped.
func (l *live) put(p []byte) int {
	l.mu.Lock()
	n := min(len(p), liveBuffer-l.buf.Len())
	l.buf.Write(p[:n])
	if l.stuck || l.closed {
		n = len(p)
	}
	l.mu.Unlock()
	signal(l.more)
	return n
}

func (l *live) drain() {
	defer close(l.ended)
	piece := make([]byte, livePiece)
	for {
		l.mu.Lock()
		n, _ := l.buf.Read(piece)
		closed := l.closed
		l.mu.Unlock()
		if n == 0 {
			if closed {
				return
			}
			<-l.more
			continue
		}
		if _, err := l.w.Write(piece[:n]); err != nil {
			return // nobody is there any more
		}
		l.mu.Lock()
		l.stuck = false
		l.mu.Unlock()
		signal(l.taken)
	}
}

// close gives the writer what is left and ends, or gives up on a writer that is stuck: the goroutine then ends
// with the Write it is in. A writer with deadlines is made to return.
func (l *live) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	signal(l.more)
	if dw, ok := l.w.(interface{ SetWriteDeadline(time.Time) error }); ok {
		_ = dw.SetWriteDeadline(time.Now().Add(patience))
	}
	timeout := time.NewTimer(2 * patience)
	defer timeout.Stop()
	select {
	case <-l.ended:
	case <-timeout.C:
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
