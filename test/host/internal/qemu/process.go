package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Process is a running QEMU. It dies with this process, however this process ends.
type Process struct {
	Port    *os.File // the other end of the guest's port
	Console *os.File // the other end of the serial line

	cmd    *exec.Cmd
	stderr tail
	done   chan struct{}
	err    error // valid once done is closed
}

// Start starts QEMU with the machine m, the contents of a kernel and of an initramfs. These are handed over in
// memory, so that not even a kill leaves files behind.
func Start(m Machine, kernel, initrd []byte) (*Process, error) {
	program, err := exec.LookPath(Program)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w; install %s", Program, err, Package)
	}
	initrdFile, err := memoryFile("initramfs", initrd)
	if err != nil {
		return nil, err
	}
	defer initrdFile.Close()
	kernelFile, err := memoryFile("kernel", kernel)
	if err != nil {
		return nil, err
	}
	defer kernelFile.Close()
	port, portEnd, err := socketpair("port")
	if err != nil {
		return nil, err
	}
	defer portEnd.Close()
	console, consoleEnd, err := socketpair("console")
	if err != nil {
		port.Close()
		return nil, err
	}
	defer consoleEnd.Close()

	p := &Process{Port: port, Console: console, done: make(chan struct{})}
	p.cmd = exec.Command(program, m.Args()...)
	p.cmd.ExtraFiles = []*os.File{portEnd, consoleEnd, initrdFile, kernelFile}
	p.cmd.Stderr = &p.stderr
	// Its own group: a terminal's Ctrl-C is for us, and we decide what becomes of QEMU.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}

	started := make(chan error)
	go func() {
		// The parent-death signal belongs to the thread that forks, so that thread lives as long as QEMU.
		runtime.LockOSThread()
		err := p.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		port.Close()
		console.Close()
		return nil, fmt.Errorf("start %s: %w", Program, err)
	}
	return p, nil
}

// Done is closed when QEMU has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Kill ends QEMU at once and waits for it. It may be called again.
func (p *Process) Kill() {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return
	}
	<-p.done
}

// Err says how QEMU ended, with what it had to say; nil after a normal end. Valid once Done is closed.
func (p *Process) Err() error {
	said := bytes.TrimSpace(p.stderr.Bytes())
	if p.err == nil && len(said) == 0 {
		return nil
	}
	if p.err == nil {
		return fmt.Errorf("%s: %s", Program, said)
	}
	return fmt.Errorf("%s: %w: %s", Program, p.err, said)
}

// Close releases the connections. QEMU must have ended.
func (p *Process) Close() {
	p.Port.Close()
	p.Console.Close()
}

// socketpair returns a connected pair: ours, known to Go's poller, and QEMU's.
func socketpair(name string) (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair for %s: %w", name, err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, fmt.Errorf("make socket of %s non-blocking: %w", name, err)
	}
	return os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name), nil
}

// memoryFile returns a file with the given content that no directory knows.
func memoryFile(name string, content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make memory file for %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(content); err != nil {
		f.Close()
		return nil, fmt.Errorf("write memory file of %s: %w", name, err)
	}
	return f, nil
}

// tail keeps the last part of what QEMU says.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailSize = 16 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) Bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.buf)
}
