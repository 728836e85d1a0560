package crio

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/fifo"
	"golang.org/x/sys/unix"
)

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// shimLog is what the shims log, which CRI-O copies to its own standard error.
var shimLog = new(buffer)

func newID() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// stdio is a process's fifos, as containerd's CRI code, which CRI-O uses, makes and reads them.
type stdio struct {
	stdin, stdout, stderr string
	terminal              bool

	fifos io.Closer
	pipes []io.Closer
	in    io.WriteCloser
	out   *buffer
	err   *buffer
	ended *sync.WaitGroup // of what is read
}

// fifoDir is that of CRI-O's runtime_root.
func fifoDir() string { return filepath.Join(state, "run", "crio", "fifo", "io") }

// newStdio makes fifos and reads them.
func newStdio(id string, terminal, stdin bool) (stdio, error) {
	if err := os.MkdirAll(fifoDir(), 0o700); err != nil {
		return stdio{}, err
	}
	set, err := cio.NewFIFOSetInDir(fifoDir(), id, terminal)
	if err != nil {
		return stdio{}, err
	}
	if !stdin {
		set.Stdin = ""
	}
	s := stdio{stdin: set.Stdin, stdout: set.Stdout, stderr: set.Stderr, terminal: terminal, fifos: set}
	return s, s.open()
}

// open opens the fifos, which may be those of a CRI-O before this one.
func (s *stdio) open() error {
	s.out, s.err, s.ended = new(buffer), new(buffer), new(sync.WaitGroup)
	if s.stdin != "" {
		f, err := fifo.OpenFifo(context.Background(), s.stdin, unix.O_WRONLY|unix.O_CREAT|unix.O_NONBLOCK, 0o700)
		if err != nil {
			return err
		}
		s.in, s.pipes = f, append(s.pipes, f)
	}
	for path, to := range map[string]*buffer{s.stdout: s.out, s.stderr: s.err} {
		if path == "" {
			continue
		}
		f, err := fifo.OpenFifo(context.Background(), path, unix.O_RDONLY|unix.O_CREAT|unix.O_NONBLOCK, 0o700)
		if err != nil {
			return err
		}
		s.pipes = append(s.pipes, f)
		if s.terminal && path == s.stderr {
			continue // given to the shim, and of no use
		}
		s.ended.Add(1)
		go func() {
			defer s.ended.Done()
			_, _ = io.Copy(to, f)
			_ = f.Close()
		}()
	}
	return nil
}

// attach copies input, and ends standard input after it as a client that attaches once does.
func (s *stdio) attach(input io.Reader, closeStdin func() error) {
	if input == nil || s.in == nil {
		return
	}
	go func() {
		_, _ = io.Copy(s.in, input)
		if !s.terminal {
			_ = s.in.Close()
			_ = closeStdin()
		}
	}()
}

// drain waits for the end of the output.
func (s *stdio) drain() { s.ended.Wait() }

// leave closes everything and leaves the fifos, as the end of CRI-O does.
func (s *stdio) leave() {
	for _, p := range s.pipes {
		_ = p.Close()
	}
	s.pipes = nil
}

func (s *stdio) close() {
	s.leave()
	_ = s.fifos.Close()
}
