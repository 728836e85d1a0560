package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/log"
)

// Config is what containerd asks for: paths or URIs, empty for none. With a terminal Stderr is ignored.
type Config struct {
	Stdin, Stdout, Stderr string
	Terminal              bool
}

// Session is the stdio of one process, from before it is created until after it has exited.
//
// Open it before the guest is asked to create the process, with the ids it gives. Begin lets stdin flow once the
// process starts. Then Wait for the output's end after the exit, and Close, in any case.
type Session struct {
	// The streams' ids for the guest; empty for none.
	Stdin, Stdout, Stderr string

	hub     *Hub
	begun   chan struct{} // lets stdin flow
	begin   sync.Once
	closing chan struct{} // ends every copy
	once    sync.Once
	copies  sync.WaitGroup
	outputs sync.WaitGroup // of copies, those that carry output

	logger *logger // behind a binary:// URI

	mu       sync.Mutex
	stdin    *stdin // once it flows
	stdinEnd bool   // CloseStdin was called
	conns    []*net.UnixConn
	files    []io.Closer
}

// buffers are as large as a default pipe, so that one write fills what a reader can take at once.
var buffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// Open opens the host's ends. It waits for the readers of fifos as long as ctx allows. owner is the
// container's namespace and id, for a logging program.
func Open(ctx context.Context, hub *Hub, c Config, owner Owner) (_ *Session, err error) {
	s := &Session{hub: hub, begun: make(chan struct{}), closing: make(chan struct{})}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if c.Terminal {
		c.Stderr = ""
	}
	stdout, stderr, err := s.openOutputs(ctx, c, owner)
	if err != nil {
		return nil, err
	}
	if stdout != nil {
		s.Stdout = s.output("stdout", stdout)
	}
	if stderr != nil {
		s.Stderr = s.output("stderr", stderr)
	}
	if c.Stdin != "" {
		if err := checkFifo(c.Stdin); err != nil {
			return nil, fmt.Errorf("open stdin: %w", err)
		}
		s.Stdin = s.input(c.Stdin)
	}
	return s, nil
}

// arrived waits for the guest's connection; nil when there will be none.
func (s *Session) arrived(id string, arrival <-chan *net.UnixConn) *net.UnixConn {
	select {
	case conn := <-arrival:
		if conn == nil {
			return nil
		}
		s.mu.Lock()
		s.conns = append(s.conns, conn)
		s.mu.Unlock()
		select {
		case <-s.closing:
			_ = conn.Close()
			return nil
		default:
			return conn
		}
	case <-s.closing:
		s.hub.forget(id, arrival)
		return nil
	}
}

func (s *Session) output(name string, to io.WriteCloser) string {
	id, arrival := s.hub.expect()
	s.keep(to)
	s.copies.Add(1)
	s.outputs.Add(1)
	go func() {
		defer s.copies.Done()
		defer s.outputs.Done()
		conn := s.arrived(id, arrival)
		if conn != nil {
			if err := transfer(to, conn); err != nil && !s.closed() {
				log.L.WithError(err).WithField("stream", name).Warn("copy output")
			}
			_ = conn.Close()
		}
		_ = to.Close()
	}()
	return id
}

// Begin lets stdin flow. Clients find its reader from here on, and not before: ctr is ready to tell stdin's end
// only after Create, and forgets it when it comes earlier.
func (s *Session) Begin() { s.begin.Do(func() { close(s.begun) }) }

func (s *Session) input(path string) string {
	id, arrival := s.hub.expect()
	s.copies.Add(1)
	go func() {
		defer s.copies.Done()
		conn := s.arrived(id, arrival)
		if conn == nil {
			return
		}
		// The end of this side is the end of stdin; whatever the process writes there is its own affair.
		defer conn.CloseWrite()
		select {
		case <-s.begun:
		case <-s.closing:
			return
		}
		from, err := s.flow(path)
		if err != nil {
			log.L.WithError(err).Warn("open stdin")
			return
		}
		defer from.Close()
		_ = transfer(conn, from) // a process that closed its stdin is no fault of the copy
	}()
	return id
}

// flow opens stdin.
func (s *Session) flow(path string) (*stdin, error) {
	from, err := openStdin(path)
	if err != nil {
		return nil, err
	}
	s.keep(from)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stdin = from
	if s.stdinEnd {
		from.closeWriter()
	}
	if s.closed() {
		_ = from.Close()
	}
	return from, nil
}

// transfer copies through a pooled buffer, which the types' own short cuts would go around.
func transfer(to io.Writer, from io.Reader) error {
	buffer := buffers.Get().(*[64 << 10]byte)
	defer buffers.Put(buffer)
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, buffer[:])
	return err
}

func (s *Session) keep(c io.Closer) {
	s.mu.Lock()
	s.files = append(s.files, c)
	s.mu.Unlock()
}

// CloseStdin lets stdin end once everything that clients wrote has been read and they have closed it.
func (s *Session) CloseStdin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stdinEnd = true
	if s.stdin != nil {
		s.stdin.closeWriter()
	}
}

// ErrOutputCut says that output was still on its way when the wait for it ended.
var ErrOutputCut = errors.New("output was cut")

// Wait returns when all output has been handed to the host, or after the timeout.
func (s *Session) Wait(timeout time.Duration) error {
	done := make(chan struct{})
	go func() {
		s.outputs.Wait()
		close(done)
	}()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
		return fmt.Errorf("%w: nobody took it for %s", ErrOutputCut, timeout)
	}
}

// Close ends every copy at once and waits for that. It may be called again.
func (s *Session) Close() {
	s.once.Do(func() {
		close(s.closing)
		s.mu.Lock()
		for _, conn := range s.conns {
			_ = conn.Close()
		}
		for _, file := range s.files {
			_ = file.Close()
		}
		s.mu.Unlock()
	})
	s.copies.Wait()
	if s.logger != nil {
		s.logger.stop()
	}
}

func (s *Session) closed() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

// stdin is a fifo that ends only after CloseStdin: until then it is held open for writing here as well, so
// that clients come and go.
type stdin struct {
	*os.File
	once   sync.Once
	writer *os.File
}

func openStdin(path string) (*stdin, error) {
	reader, err := openFifo(path, os.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("open stdin: %w", err)
	}
	writer, err := openFifo(path, os.O_WRONLY)
	if err != nil {
		reader.Close()
		return nil, fmt.Errorf("open stdin: %w", err)
	}
	return &stdin{File: reader, writer: writer}, nil
}

func (s *stdin) closeWriter() { s.once.Do(func() { s.writer.Close() }) }

func (s *stdin) Close() error {
	s.closeWriter()
	return s.File.Close()
}
