package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/test/host/internal/wire"
)

const (
	portDeadline    = 20 * time.Second // devices appear some time after their driver
	goodbyeDeadline = 20 * time.Second // what the machine may take to have written the last output
	pollInterval    = 5 * time.Millisecond
)

// port is the connection to the machine.
type port struct {
	file    *os.File
	frames  *wire.Writer
	goodbye chan struct{} // closed when the machine has everything, or is gone
	listen  sync.Once
}

func openPort() (*port, error) {
	deadline := time.Now().Add(portDeadline)
	device, err := findPort(deadline)
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open port: %w", err)
	}
	if err := waitConnected(file, deadline); err != nil {
		file.Close()
		return nil, err
	}
	return &port{file: file, frames: wire.NewWriter(file), goodbye: make(chan struct{})}, nil
}

func findPort(deadline time.Time) (string, error) {
	for {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return "", fmt.Errorf("look for port: %w", err)
		}
		for _, path := range names {
			name, err := os.ReadFile(path)
			if err != nil || strings.TrimSpace(string(name)) != wire.PortName {
				continue
			}
			device := "/dev/" + filepath.Base(filepath.Dir(path))
			if _, err := os.Stat(device); err == nil {
				return device, nil
			}
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("look for port: no virtio-serial port is called %s", wire.PortName)
		}
		time.Sleep(pollInterval)
	}
}

// waitConnected waits until the port knows that its other end is open. Before that it reads as ended.
func waitConnected(file *os.File, deadline time.Time) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return fmt.Errorf("wait for port: %w", err)
	}
	for time.Now().Before(deadline) {
		connected := false
		err := conn.Control(func(fd uintptr) {
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
			n, err := unix.Poll(fds, 0)
			connected = err == nil && n == 1 && fds[0].Revents&unix.POLLOUT != 0 && fds[0].Revents&unix.POLLHUP == 0
		})
		if err != nil {
			return fmt.Errorf("wait for port: %w", err)
		}
		if connected {
			return nil
		}
		time.Sleep(pollInterval)
	}
	return errors.New("wait for port: the machine's end is not open")
}

// mark reports a point in the boot. A port that fails will fail the output that matters too.
func (p *port) mark(name string) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return
	}
	_ = p.frames.WriteJSON(wire.KindMark, wire.Mark{Name: name, UptimeMS: now.Nano() / int64(time.Millisecond)})
}

// exit reports the end of the command and waits until the machine has everything.
func (p *port) exit(status int) error {
	if err := p.frames.WriteJSON(wire.KindExit, wire.Exit{Status: &status}); err != nil {
		return err
	}
	p.waitGoodbye()
	return nil
}

// fail reports why the command was not run.
func (p *port) fail(reason error) {
	if err := p.frames.Write(wire.KindFailure, []byte(reason.Error())); err != nil {
		return
	}
	p.waitGoodbye()
}

func (p *port) waitGoodbye() {
	p.receive(nil)
	select {
	case <-p.goodbye:
	case <-time.After(goodbyeDeadline):
		fmt.Fprintln(os.Stderr, "husk test host: the machine did not confirm the end")
	}
}

// receive begins to handle what the machine sends, until it says goodbye. Only the first call counts.
func (p *port) receive(in input) {
	p.listen.Do(func() { go p.handle(in) })
}

func (p *port) handle(in input) {
	defer close(p.goodbye)
	for {
		kind, payload, err := wire.Read(p.file)
		if err != nil || kind == wire.KindGoodbye {
			return
		}
		if kind == wire.KindInspect {
			// A port that fails here fails the exit too.
			_ = p.frames.Write(wire.KindReport, []byte(describeProcesses("/proc")))
		}
		if in == nil {
			continue
		}
		switch kind {
		case wire.KindStdin:
			in.write(payload)
		case wire.KindStdinEnd:
			in.end()
		case wire.KindWinsize:
			in.resize(payload)
		}
	}
}
