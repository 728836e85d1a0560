package qemu

import (
	"os"
	"strings"
	"time"
)

// tailSize is how much of QEMU's stderr is kept, in bytes: its last words.
const tailSize = 8 << 10

// tail keeps the end of what comes down a pipe.
type tail struct {
	pipe *os.File
	done chan struct{}
	text []byte // after done
}

// newTail starts to read. The pipe is the tail's, and closed by finish.
func newTail(pipe *os.File) *tail {
	t := &tail{pipe: pipe, done: make(chan struct{})}
	go t.read()
	return t
}

func (t *tail) read() {
	defer close(t.done)
	buf := make([]byte, 4<<10)
	for {
		n, err := t.pipe.Read(buf)
		t.text = append(t.text, buf[:n]...)
		if over := len(t.text) - tailSize; over > 0 {
			t.text = append(t.text[:0], t.text[over:]...)
		}
		if err != nil {
			return
		}
	}
}

// finish waits for the end of the pipe, at most for d, and returns its last text, made safe to print.
func (t *tail) finish(d time.Duration) string {
	_ = t.pipe.SetReadDeadline(time.Now().Add(d))
	<-t.done
	_ = t.pipe.Close()
	return printable(string(t.text))
}

// printable leaves nothing that a terminal or a log would take for more than text.
func printable(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r != '\n' && (r < ' ' || r >= 0x7f && r < 0xa0) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "?")))
}
