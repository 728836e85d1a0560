package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/containerd/fifo"
)

// openOutputs opens where output goes: fifos and files by path, or one file:// or binary:// URI for both.
func (s *Session) openOutputs(ctx context.Context, c Config, owner Owner) (stdout, stderr io.WriteCloser, err error) {
	uri, err := url.Parse(c.Stdout)
	if err != nil {
		return nil, nil, fmt.Errorf("parse stdout %q: %w", c.Stdout, err)
	}
	switch uri.Scheme {
	case "", "fifo":
		return s.openPaths(ctx, c)
	case "file":
		return openLogFile(uri.Path, c.Terminal)
	case "binary", "binary-v2":
		s.logger, err = startLogger(ctx, uri, owner)
		if err != nil {
			return nil, nil, err
		}
		if c.Terminal {
			_ = s.logger.stderr.Close()
			return s.logger.stdout, nil, nil
		}
		return s.logger.stdout, s.logger.stderr, nil
	}
	return nil, nil, fmt.Errorf("stdout %q: the scheme %s:// is not supported: %w", c.Stdout, uri.Scheme, errdefs.ErrNotImplemented)
}

func (s *Session) openPaths(ctx context.Context, c Config) (stdout, stderr io.WriteCloser, err error) {
	if c.Stdout != "" {
		if stdout, err = openOutput(ctx, c.Stdout); err != nil {
			return nil, nil, fmt.Errorf("open stdout: %w", err)
		}
	}
	if c.Stderr == "" {
		return stdout, nil, nil
	}
	if c.Stderr == c.Stdout {
		both := share(stdout)
		return both, both, nil
	}
	if stderr, err = openOutput(ctx, c.Stderr); err != nil {
		if stdout != nil {
			_ = stdout.Close()
		}
		return nil, nil, fmt.Errorf("open stderr: %w", err)
	}
	return stdout, stderr, nil
}

// openOutput opens a fifo once it has a reader, or a file to append to.
func openOutput(ctx context.Context, path string) (io.WriteCloser, error) {
	is, err := fifo.IsFifo(path)
	if err != nil {
		return nil, err
	}
	if !is {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return nil, err
		}
		return f, nil
	}
	// Opening waits for a reader, as runc's shim does, so that what a short process writes finds one.
	writer, err := fifo.OpenFifo(ctx, path, syscall.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("open fifo %s for its reader: %w", path, err)
	}
	// From here on the fifo has a reader for life: a client that detaches makes the process wait, not fail.
	reader, err := openFifo(path, os.O_RDONLY)
	if err != nil {
		_ = writer.Close()
		return nil, err
	}
	file, err := openFifo(path, os.O_WRONLY)
	_ = writer.Close()
	if err != nil {
		reader.Close()
		return nil, err
	}
	return &heldFifo{File: file, reader: reader}, nil
}

// heldFifo is a fifo's writing end with a reading end that nobody reads.
type heldFifo struct {
	*os.File
	reader *os.File
}

func (f *heldFifo) Close() error { return errors.Join(f.File.Close(), f.reader.Close()) }

// openFifo opens without waiting for the other end, and so that Close ends a blocked Read or Write.
func openFifo(path string, how int) (*os.File, error) {
	if err := checkFifo(path); err != nil {
		return nil, err
	}
	return os.OpenFile(path, how|syscall.O_NONBLOCK, 0)
}

func checkFifo(path string) error {
	is, err := fifo.IsFifo(path)
	if err == nil && !is {
		err = fmt.Errorf("%s is not a fifo", path)
	}
	return err
}

// openLogFile opens one file for both streams, created when missing.
func openLogFile(path string, terminal bool) (stdout, stderr io.WriteCloser, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, nil, fmt.Errorf("create the log's directory: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, nil, fmt.Errorf("open log: %w", err)
	}
	if terminal {
		return f, nil, nil
	}
	both := share(f)
	return both, both, nil
}

// shared is closed when both its users have closed it.
type shared struct {
	io.WriteCloser
	mu   sync.Mutex
	left int
}

func share(w io.WriteCloser) *shared { return &shared{WriteCloser: w, left: 2} }

func (s *shared) Close() error {
	s.mu.Lock()
	s.left--
	last := s.left == 0
	s.mu.Unlock()
	if !last {
		return nil
	}
	return s.WriteCloser.Close()
}
