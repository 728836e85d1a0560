package vsock

import "sync"

const chunkSize = 32 << 10

// chunks are the backlog's memory: there is none while hosts keep up.
var chunks = sync.Pool{New: func() any { return new(chunk) }}

type chunk struct {
	data       [chunkSize]byte
	start, end int
}

// backlog is what the guest has sent and the host would not take yet. One goroutine appends, one consumes. Its
// size is bounded by credit, not here.
type backlog struct {
	mu   sync.Mutex
	list []*chunk
}

// append copies n bytes of segs, after the first skip.
func (b *backlog) append(segs [][]byte, skip, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, seg := range segs {
		if skip >= len(seg) {
			skip -= len(seg)
			continue
		}
		seg, skip = seg[skip:], 0
		seg = seg[:min(n, len(seg))]
		n -= len(seg)
		for len(seg) > 0 {
			c := b.tail()
			moved := copy(c.data[c.end:], seg)
			c.end += moved
			seg = seg[moved:]
		}
	}
}

func (b *backlog) tail() *chunk {
	if n := len(b.list); n > 0 && b.list[n-1].end < chunkSize {
		return b.list[n-1]
	}
	c := chunks.Get().(*chunk)
	c.start, c.end = 0, 0
	b.list = append(b.list, c)
	return c
}

// front is the oldest contiguous bytes, valid until consume; nil when there are none.
func (b *backlog) front() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.list) == 0 {
		return nil
	}
	return b.list[0].data[b.list[0].start:b.list[0].end]
}

// consume drops n bytes of front.
func (b *backlog) consume(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.list[0]
	if c.start += n; c.start < c.end {
		return
	}
	b.list = b.list[:copy(b.list, b.list[1:])]
	chunks.Put(c)
}

// clear drops everything.
func (b *backlog) clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.list {
		chunks.Put(c)
	}
	b.list = b.list[:0]
}
