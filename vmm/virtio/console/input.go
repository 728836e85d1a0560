package console

import (
	"io"
	"time"
)

// input reads ahead of the guest, one piece, whether the device is active or not. A blocked Read can't be undone
// in general, so its goroutine belongs to the device rather than to one activation.
type input struct {
	r      io.Reader
	pieces chan []byte   // closed at the reader's end
	quit   chan struct{} // closed by close
}

func newInput(r io.Reader) *input {
	in := &input{r: r, pieces: make(chan []byte), quit: make(chan struct{})}
	go in.pump()
	return in
}

func (in *input) pump() {
	defer close(in.pieces)
	buf := make([]byte, 4096)
	for {
		n, err := in.r.Read(buf)
		if n > 0 {
			select {
			case in.pieces <- append([]byte(nil), buf[:n]...):
			case <-in.quit:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// close ends the goroutine; if it is in a Read without deadlines, with that Read.
func (in *input) close() {
	close(in.quit)
	if dr, ok := in.r.(interface{ SetReadDeadline(time.Time) error }); ok {
		_ = dr.SetReadDeadline(time.Unix(1, 0))
	}
}
