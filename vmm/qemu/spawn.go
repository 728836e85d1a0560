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
		p, err := os.StartProcess(c.Binary.Path, append([]string{c.Binary.Path}, args...), &os.ProcAttr{
			Dir:   "/",
			Env:   []string{},
			Files: files,
			Sys:   attributes(c),
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

// attributes drop root before QEMU's first instruction. QEMU could do so itself (-runas), but not from behind its
// seccomp filter. The right to change the root is all that it keeps, and in an empty root it leads nowhere.
func attributes(c *Config) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	if c.User == nil {
		return a
	}
	a.Credential = &syscall.Credential{Uid: c.User.UID, Gid: c.User.GID}
	var kvm unix.Stat_t
	if c.KVM && unix.Stat("/dev/kvm", &kvm) == nil {
		a.Credential.Groups = []uint32{kvm.Gid}
	}
	if c.Root != "" {
		a.AmbientCaps = []uintptr{unix.CAP_SYS_CHROOT}
	}
	return a
}
