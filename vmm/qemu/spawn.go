package qemu

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Pair makes a connected pair of sockets for Config: ours is for this process and can be waited on, theirs for QEMU.
func Pair(name string) (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("create socket pair: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		_ = unix.Close(fds[0])
		_ = unix.Close(fds[1])
		return nil, nil, fmt.Errorf("create socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name+" of QEMU"), nil
}

// spawn starts QEMU and returns it, and a channel with its wait status once it is reaped.
//
// One thread does both and nothing else: PDEATHSIG is sent when the thread that forked ends, not the process.
func spawn(c *Config, args []string, files []*os.File) (*os.Process, <-chan syscall.WaitStatus, error) {
	type started struct {
		process *os.Process
		err     error
	}
	start, exited := make(chan started), make(chan syscall.WaitStatus, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		if err := dropBounds(); err != nil {
			start <- started{nil, err}
			return
		}
		p, err := os.StartProcess(c.Binary.Path, append([]string{c.Binary.Path}, args...), &os.ProcAttr{
			Dir:   "/",
			Env:   []string{},
			Files: files,
			Sys:   attributes(),
		})
		start <- started{p, err}
		if err != nil {
			return
		}
		state, err := p.Wait()
		if err != nil {
			// Somebody else reaped it: a status that nobody saw counts as a kill.
			exited <- syscall.WaitStatus(syscall.SIGKILL)
			return
		}
		exited <- state.Sys().(syscall.WaitStatus)
	}()
	s := <-start
	return s.process, exited, s.err
}

// attributes put QEMU into namespaces of its own, where this process may make them. It shares the caller's mount
// namespace: a caller that empties that takes QEMU's paths away as well, once it has opened all it needs.
func attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	if os.Geteuid() == 0 {
		a.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	}
	return a
}

// dropBounds leaves no capability to what this thread executes: root's own come from the bounding set.
func dropBounds() error {
	if os.Geteuid() != 0 {
		return nil
	}
	for c := uintptr(0); ; c++ {
		switch has, _, errno := unix.Syscall(unix.SYS_PRCTL, unix.PR_CAPBSET_READ, c, 0); {
		case errno == unix.EINVAL:
			return nil // beyond the last
		case errno != 0:
			return fmt.Errorf("read the bounding set: %w", errno)
		case has == 0:
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
}
