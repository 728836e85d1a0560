// Package wire is what the test host's two halves say to each other: the program on the machine, and the same
// program as init in the guest. Both directions are one ordered stream of frames over one virtio-serial port,
// so an exit status can't overtake the output that came before it.
//
// A frame is one byte of kind, four bytes of length (big endian), and the payload.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Kind says what a frame carries.
type Kind byte

// From the guest: Mark, Stdout, Stderr, then once Exit or Failure, then nothing; Report in answer to Inspect.
// To the guest, and only after its Mark "command": Stdin, StdinEnd, Winsize, Inspect, Pulse; after Exit or Failure:
// Goodbye.
const (
	KindMark     Kind = 1 + iota // JSON of Mark
	KindStdout                   // bytes of the command
	KindStderr                   // bytes of the command
	KindExit                     // JSON of Exit
	KindFailure                  // text: why the host could not run the command
	KindStdin                    // bytes for the command
	KindStdinEnd                 // no more bytes for the command
	KindWinsize                  // JSON of Winsize
	KindGoodbye                  // everything has arrived, power off
	KindInspect                  // what is running?
	KindReport                   // text: what is running
	KindPulse                    // nothing but the interrupt that comes with it
)

// PortName is the name of the virtio-serial port.
const PortName = "husk.host"

// MaxPayload bounds a frame, so that a corrupted length is noticed and not allocated.
const MaxPayload = 1 << 20

// The points in a boot that are reported by a Mark.
const (
	MarkInit    = "init"    // the guest's init has its port
	MarkReady   = "ready"   // root, modules and cgroups are set up
	MarkCommand = "command" // the command has been started
)

// Mark is a point in the guest's boot, with its age of the guest's kernel.
type Mark struct {
	Name     string `json:"name"`
	UptimeMS int64  `json:"uptime_ms"`
}

// Exit is the end of the command. Status has no default: a message without it says nothing and must be refused.
type Exit struct {
	Status *int `json:"status"`
}

// Winsize is the size of the terminal.
type Winsize struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// ErrTooLong is the answer to a frame larger than MaxPayload: the stream is corrupt.
var ErrTooLong = errors.New("frame longer than allowed")

// Read reads one frame. At the end of the stream it returns io.EOF, within a frame io.ErrUnexpectedEOF.
func Read(r io.Reader) (Kind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(head[1:])
	if length > MaxPayload {
		return 0, nil, fmt.Errorf("read frame of kind %d, length %d: %w", head[0], length, ErrTooLong)
	}
	payload := make([]byte, length)
	if _, err := io.ReadFull(r, payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return Kind(head[0]), payload, nil
}

// Writer writes frames; it may be used by several goroutines at once.
type Writer struct {
	mu sync.Mutex
	w  io.Writer
}

// NewWriter returns a Writer of frames to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Write writes one frame.
func (w *Writer) Write(kind Kind, payload []byte) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("write frame of kind %d, length %d: %w", kind, len(payload), ErrTooLong)
	}
	frame := make([]byte, 0, 5+len(payload))
	frame = append(frame, byte(kind))
	frame = binary.BigEndian.AppendUint32(frame, uint32(len(payload)))
	frame = append(frame, payload...)
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.w.Write(frame); err != nil {
		return fmt.Errorf("write frame of kind %d: %w", kind, err)
	}
	return nil
}

// WriteJSON writes one frame whose payload is v as JSON.
func (w *Writer) WriteJSON(kind Kind, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode frame of kind %d: %w", kind, err)
	}
	return w.Write(kind, payload)
}

// Copy writes everything from r in frames of the given kind, until r ends.
func (w *Writer) Copy(kind Kind, r io.Reader) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if err := w.Write(kind, buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
