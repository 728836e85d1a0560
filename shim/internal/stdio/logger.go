package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Owner is whose output a logging program gets.
type Owner struct{ Namespace, ID string }

// stopTime is how long a logging program may take to finish after the end of its input.
const stopTime = 10 * time.Second

// logger is a program behind a binary:// URI, as containerd defines it: stdout on descriptor 3, stderr on 4,
// and 5 to close when it is ready. With binary-v2:// it writes a byte there first.
type logger struct {
	cmd            *exec.Cmd
	stdout, stderr *os.File
}

func startLogger(ctx context.Context, uri *url.URL, owner Owner) (_ *logger, err error) {
	var files []*os.File
	pipe := func() (r, w *os.File) {
		if err != nil {
			return nil, nil
		}
		if r, w, err = os.Pipe(); err == nil {
			files = append(files, r, w)
		}
		return r, w
	}
	outRead, outWrite := pipe()
	errRead, errWrite := pipe()
	readyRead, readyWrite := pipe()
	defer func() {
		for _, f := range files {
			if err != nil || (f != outWrite && f != errWrite) {
				_ = f.Close()
			}
		}
	}()
	if err != nil {
		return nil, fmt.Errorf("create pipes for %s: %w", uri.Path, err)
	}

	var args []string
	for key, values := range uri.Query() {
		args = append(args, key)
		if len(values) > 0 {
			args = append(args, values[0])
		}
	}
	cmd := exec.Command(uri.Path, args...)
	cmd.Env = append(os.Environ(), "CONTAINER_ID="+owner.ID, "CONTAINER_NAMESPACE="+owner.Namespace)
	cmd.ExtraFiles = []*os.File{outRead, errRead, readyWrite}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start logging program: %w", err)
	}
	_ = readyWrite.Close()
	stop := context.AfterFunc(ctx, func() { _ = readyRead.SetReadDeadline(time.Now()) })
	defer stop()
	n, err := readyRead.Read(make([]byte, 1))
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err == nil && n == 0 && uri.Scheme == "binary-v2" {
		err = errors.New("it ended without saying that it is ready")
	}
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, fmt.Errorf("wait for logging program %s: %w", uri.Path, err)
	}
	return &logger{cmd: cmd, stdout: outWrite, stderr: errWrite}, nil
}

// stop waits for the program after its input has ended, and makes it end when it does not.
func (l *logger) stop() {
	done := make(chan struct{})
	go func() {
		_ = l.cmd.Wait()
		close(done)
	}()
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		select {
		case <-done:
			return
		case <-time.After(stopTime):
			_ = l.cmd.Process.Signal(signal)
		}
	}
	<-done
}
