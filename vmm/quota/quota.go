// Package quota bounds what is written to a file of the host's on a guest's behalf: a guest can have its VMM log a line,
// or say something on its console, as often as it likes.
package quota

import (
	"io"
	"sync"
)

// Writer passes on what is written to it, up to a number of bytes. Safe for concurrent use.
type Writer struct {
	w    io.Writer
	last string

	mu   sync.Mutex
	left int
	full bool
}

// NewWriter returns a Writer of n bytes to w. The first write that does not fit is replaced by last, and what comes after
// it is dropped: none of them is an error.
func NewWriter(w io.Writer, n int, last string) *Writer {
	return &Writer{w: w, left: n, last: last}
}

// Write implements io.Writer.
func (q *Writer) Write(p []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.full:
		return len(p), nil
	case len(p) > q.left:
		q.full = true
		if _, err := io.WriteString(q.w, q.last); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	n, err := q.w.Write(p)
	q.left -= n
	return n, err
}
