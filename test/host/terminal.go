package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/test/host/internal/wire"
)

// terminal is the caller's, in raw mode while a command is wired to it. The zero value is no terminal.
type terminal struct {
	saved *unix.Termios
}

// openTerminal takes the terminal if one is wanted and both stdin and stdout are one.
func openTerminal(wanted bool) (*terminal, error) {
	if !wanted || !isTerminal(os.Stdin) || !isTerminal(os.Stdout) {
		return &terminal{}, nil
	}
	saved, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("read terminal mode: %w", err)
	}
	raw := *saved
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(int(os.Stdin.Fd()), unix.TCSETS, &raw); err != nil {
		return nil, fmt.Errorf("set terminal mode: %w", err)
	}
	return &terminal{saved: saved}, nil
}

// restore gives the terminal back as it was. It may be called again.
func (t *terminal) restore() {
	if t.saved == nil {
		return
	}
	if err := unix.IoctlSetTermios(int(os.Stdin.Fd()), unix.TCSETS, t.saved); err != nil {
		fmt.Fprintf(os.Stderr, "host: restore terminal: %v\n", err)
	}
}

// size returns the window's size, or nil if there is no terminal.
func (t *terminal) size() *wire.Winsize {
	if t.saved == nil {
		return nil
	}
	size, err := unix.IoctlGetWinsize(int(os.Stdout.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return &wire.Winsize{Rows: 24, Cols: 80}
	}
	return &wire.Winsize{Rows: size.Row, Cols: size.Col}
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
