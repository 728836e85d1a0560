package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/test/host/internal/wire"
)

const (
	statusNotExecutable = 126
	statusNotFound      = 127
	statusSignalBase    = 128

	drainDeadline = 10 * time.Second
)

// input is where the machine's side of stdin goes.
type input interface {
	write(p []byte)
	end()
	resize(payload []byte)
}

// run runs the command to its end and reports it. An error means that the command was not run.
//
// The host ends with its command: whatever it leaves running is killed, which also ends the output.
func run(p *port, spec *wire.Spec) error {
	if err := os.Chdir(spec.Dir); err != nil {
		return fmt.Errorf("enter working directory (the host has the machine's files, but its own /run, /dev, /proc and /sys): %w", err)
	}
	stdio, err := openStdio(spec)
	if err != nil {
		return err
	}
	pid, status, err := start(spec, stdio)
	if err != nil {
		_ = p.frames.Write(wire.KindStderr, []byte("host: "+err.Error()+"\n"))
		stdio.close()
		return p.exit(status)
	}
	stdio.closeTheirs()

	var drained sync.WaitGroup
	for kind, file := range stdio.outputs {
		drained.Go(func() {
			if err := p.frames.Copy(kind, endAtHangup{file}); err != nil && !errors.Is(err, os.ErrClosed) {
				fmt.Fprintf(os.Stderr, "husk test host: pass output on: %v\n", err)
			}
		})
	}
	p.mark(wire.MarkCommand)
	p.receive(stdio.input)

	status, err = reap(pid)
	if err != nil {
		return err
	}
	if err := unix.Kill(-1, unix.SIGKILL); err != nil && err != unix.ESRCH {
		return fmt.Errorf("kill what the command left: %w", err)
	}
	done := make(chan struct{})
	go func() { drained.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(drainDeadline):
		fmt.Fprintln(os.Stderr, "husk test host: a process that can't be killed holds the command's output open")
	}
	return p.exit(status)
}

// start starts the command. With an error comes the status a shell would give.
func start(spec *wire.Spec, stdio *stdio) (pid, status int, err error) {
	// The command is looked up in its own PATH, not in that of init.
	for _, kv := range spec.Env {
		if key, value, _ := strings.Cut(kv, "="); key == "PATH" {
			if err := os.Setenv("PATH", value); err != nil {
				return 0, statusNotFound, fmt.Errorf("set PATH: %w", err)
			}
		}
	}
	path, err := exec.LookPath(spec.Command[0])
	if err == nil {
		pid, err = syscall.ForkExec(path, spec.Command, &syscall.ProcAttr{
			Env:   spec.Env,
			Files: []uintptr{stdio.theirs[0].Fd(), stdio.theirs[1].Fd(), stdio.theirs[2].Fd()},
			Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: spec.Terminal != nil},
		})
		if err != nil {
			err = fmt.Errorf("exec %s: %w", path, err)
		}
	}
	switch {
	case err == nil:
		return pid, 0, nil
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return 0, statusNotFound, err
	}
	return 0, statusNotExecutable, err
}

// reap waits for everything that ends, as PID 1 must, and returns when pid has.
// Nothing else in this process may wait for children.
func reap(pid int) (int, error) {
	for {
		var ws syscall.WaitStatus
		ended, err := syscall.Wait4(-1, &ws, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("wait for the command: %w", err)
		}
		if ended != pid {
			continue
		}
		if ws.Signaled() {
			return statusSignalBase + int(ws.Signal()), nil
		}
		return ws.ExitStatus(), nil
	}
}

// endAtHangup makes a terminal's EIO, which it gives when its last user is gone, the end of the stream it is.
type endAtHangup struct{ r io.Reader }

func (e endAtHangup) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if errors.Is(err, unix.EIO) {
		err = io.EOF
	}
	return n, err
}

func decodeWinsize(payload []byte) (wire.Winsize, error) {
	var size wire.Winsize
	if err := json.Unmarshal(payload, &size); err != nil {
		return size, fmt.Errorf("decode window size: %w", err)
	}
	return size, nil
}
