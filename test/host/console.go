package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"regexp"
	"time"
)

const (
	consoleKeep  = 64 << 10
	consoleLines = 60
	consoleGrace = 5 * time.Second
)

// console keeps the end of what the guest's kernel says.
type console struct {
	done chan struct{}
	kept []byte // valid once done is closed
}

// newConsole reads r until it ends, which it does with QEMU, and shows it if asked to.
func newConsole(r io.Reader, show bool) *console {
	c := &console{done: make(chan struct{})}
	go func() {
		defer close(c.done)
		buf := make([]byte, 4096)
		for {
			n, err := r.Read(buf)
			if show {
				// Without a stderr there is nobody to show it to.
				_, _ = os.Stderr.Write(buf[:n])
			}
			c.kept = append(c.kept, buf[:n]...)
			if over := len(c.kept) - consoleKeep; over > 0 {
				c.kept = append(c.kept[:0], c.kept[over:]...)
			}
			if err != nil {
				return
			}
		}
	}()
	return c
}

// wait waits for the end of the console.
func (c *console) wait() bool {
	select {
	case <-c.done:
		return true
	case <-time.After(consoleGrace):
		return false
	}
}

// printTail prints the last lines. The console must have ended.
func (c *console) printTail(w io.Writer) {
	lines := tailLines(c.kept, consoleLines)
	if len(lines) == 0 {
		fmt.Fprintln(w, "host: the console is empty")
		return
	}
	fmt.Fprintln(w, "host: the console's last lines:")
	for _, line := range lines {
		fmt.Fprintf(w, "  | %s\n", line)
	}
}

// noise is what a terminal would not show: escape sequences, and the firmware's greeting between them.
var noise = regexp.MustCompile(`\x1b(\[[0-9;?=]*[A-Za-z]|[a-z])|SeaBIOS \(version .*\)|Booting from ROM\.*|\r`)

func tailLines(text []byte, most int) [][]byte {
	var lines [][]byte
	for line := range bytes.Lines(noise.ReplaceAll(text, nil)) {
		if line = bytes.TrimRight(line, "\n "); len(line) > 0 {
			lines = append(lines, line)
		}
	}
	return lines[max(0, len(lines)-most):]
}
