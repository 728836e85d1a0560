package guest

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/test/host/internal/wire"
)

// stdio is the command's standard files, both sides of each.
type stdio struct {
	theirs  [3]*os.File
	outputs map[wire.Kind]*os.File
	input   input // nil if the command's stdin is /dev/null
}

func openStdio(spec *wire.Spec) (*stdio, error) {
	if spec.Terminal != nil {
		return openTerminal(*spec.Terminal)
	}
	s := &stdio{outputs: map[wire.Kind]*os.File{}}
	if err := s.openInput(spec.Stdin); err != nil {
		return nil, err
	}
	for i, kind := range []wire.Kind{wire.KindStdout, wire.KindStderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, fmt.Errorf("make pipe for output: %w", err)
		}
		s.theirs[1+i] = w
		s.outputs[kind] = r
	}
	return s, nil
}

func (s *stdio) openInput(wanted bool) error {
	if !wanted {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return fmt.Errorf("open stdin: %w", err)
		}
		s.theirs[0] = null
		return nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe for stdin: %w", err)
	}
	s.theirs[0], s.input = r, pipeInput{w}
	return nil
}

// closeTheirs leaves the command alone with its files.
func (s *stdio) closeTheirs() {
	for _, f := range s.theirs {
		f.Close()
	}
}

func (s *stdio) close() {
	s.closeTheirs()
	for _, f := range s.outputs {
		f.Close()
	}
	if s.input != nil {
		s.input.end()
	}
}

// pipeInput is a stdin that is not a terminal.
type pipeInput struct{ file *os.File }

// A command that has closed its stdin doesn't care for more.
func (in pipeInput) write(p []byte) { _, _ = in.file.Write(p) }
func (in pipeInput) end()           { in.file.Close() }
func (in pipeInput) resize([]byte)  {}

// terminalInput is the controlling side of the command's terminal.
type terminalInput struct{ file *os.File }

func openTerminal(size wire.Winsize) (*stdio, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open terminal: %w", err)
	}
	in := terminalInput{master}
	name := ""
	err = in.control(func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return fmt.Errorf("unlock terminal: %w", err)
		}
		n, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
		if err != nil {
			return fmt.Errorf("number terminal: %w", err)
		}
		name = fmt.Sprintf("/dev/pts/%d", n)
		return setWinsize(fd, size)
	})
	if err != nil {
		master.Close()
		return nil, err
	}
	slave, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		master.Close()
		return nil, fmt.Errorf("open terminal: %w", err)
	}
	return &stdio{
		theirs:  [3]*os.File{slave, slave, slave},
		outputs: map[wire.Kind]*os.File{wire.KindStdout: master},
		input:   in,
	}, nil
}

func (in terminalInput) write(p []byte) { _, _ = in.file.Write(p) }

// end types the end-of-file character: a terminal has no other end while its command runs.
func (in terminalInput) end() { in.write([]byte{4}) }

func (in terminalInput) resize(payload []byte) {
	size, err := decodeWinsize(payload)
	if err != nil {
		return
	}
	_ = in.control(func(fd int) error { return setWinsize(fd, size) })
}

func (in terminalInput) control(f func(fd int) error) error {
	conn, err := in.file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := conn.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

func setWinsize(fd int, size wire.Winsize) error {
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Cols}); err != nil {
		return fmt.Errorf("set window size: %w", err)
	}
	return nil
}
