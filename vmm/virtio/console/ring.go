package console

import "sync"

// RingSize is how much of a guest's output a Ring keeps.
const RingSize = 64 << 10

// Ring keeps the last RingSize bytes written to it: what a guest said last, for the error that reports its death.
// The zero value is ready and takes no memory before the first byte. Safe for concurrent use.
type Ring struct {
	mu    sync.Mutex
	bytes []byte // grows up to RingSize
	next  int    // once full: the oldest byte, and the next to be overwritten
}

// Write implements io.Writer. It never fails.
func (r *Ring) Write(p []byte) (int, error) {
	n := len(p)
	p = p[max(0, n-RingSize):]
	r.mu.Lock()
	defer r.mu.Unlock()
	if room := RingSize - len(r.bytes); room > 0 {
		k := min(room, len(p))
		r.bytes = append(r.bytes, p[:k]...)
		p = p[k:]
	}
	for len(p) > 0 {
		k := copy(r.bytes[r.next:], p)
		r.next = (r.next + k) % RingSize
		p = p[k:]
	}
	return n, nil
}

// Tail returns a copy of what the ring holds, oldest first.
func (r *Ring) Tail() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append(append(make([]byte, 0, len(r.bytes)), r.bytes[r.next:]...), r.bytes[:r.next]...)
}
