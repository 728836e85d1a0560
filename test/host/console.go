package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"time"
)

const (
	consoleKeep  = 64 << 10
	consoleLines = 60
)

// console keeps the end of what the guest's kernel says.
type console struct {
	done chan struct{}
	kept []byte // valid once done is closed
}

// newConsole reads r until it ends, and shows it if asked to.
func newConsole(r io.Reader, show bool) *console {
	c := &console{done: make(chan struct{})}
	go func() {
		defer close(c.done)
		buf := make([]byte, 4096)
		for {
			n, err := r.Read(buf)
			if show {
				os.Stderr.Write(buf[:n])
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

// wait waits for the end of the console, which comes with QEMU's.
func (c *console) wait() {
	select {
	case <-c.done:
	case <-time.After(5 * time.Second):
	}
}

func (c *console) printTail(w io.Writer) {
	select {
	case <-c.done:
	default:
		return
	}
	text := bytes.TrimSpace(bytes.ReplaceAll(c.kept, []byte("\r"), nil))
	if len(text) == 0 {
		fmt.Fprintln(w, "host: the console is empty")
		return
	}
	lines := bytes.Split(text, []byte("\n"))
	if len(lines) > consoleLines {
		lines = lines[len(lines)-consoleLines:]
	}
	fmt.Fprintf(w, "host: the console's last %d lines:\n", len(lines))
	for _, line := range lines {
		fmt.Fprintf(w, "  | %s\n", line)
	}
}
