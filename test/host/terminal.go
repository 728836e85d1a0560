package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/test/host/internal/wire"
)

// terminal is the caller's, if the command is to be wired to it. The zero value is no terminal.
type terminal struct {
	wired bool
	saved *unix.Termios // the mode to go back to, while in raw mode
}

// openTerminal takes the terminal if one is wanted and both stdin and stdout are one.
func openTerminal(wanted bool) *terminal {
	return &terminal{wired: wanted && isTerminal(os.Stdin) && isTerminal(os.Stdout)}
}

// raw hands every key over to the command. Before, Ctrl-C still ends a boot.
func (t *terminal) raw() error {
	if !t.wired {
		return nil
	}
	saved, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS)
	if err != nil {
		return fmt.Errorf("read terminal mode: %w", err)
	}
	raw := *saved
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(int(os.Stdin.Fd()), unix.TCSETS, &raw); err != nil {
		return fmt.Errorf("set terminal mode: %w", err)
	}
	t.saved = saved
	return nil
}

// restore gives the terminal back as it was. It may be called at any time, and again.
func (t *terminal) restore() {
	if t.saved == nil {
		return
	}
	if err := unix.IoctlSetTermios(int(os.Stdin.Fd()), unix.TCSETS, t.saved); err != nil {
		fmt.Fprintf(os.Stderr, "host: restore terminal: %v\n", err)
	}
	t.saved = nil
}

// size returns the window's size, or nil if there is no terminal.
func (t *terminal) size() *wire.Winsize {
	if !t.wired {
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
