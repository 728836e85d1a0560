package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"

	"github.com/huskvm/husk/guest-agent/internal/stage"
	"golang.org/x/sys/unix"
)

// self is the agent's executable, wherever the root has moved to since it was started.
const self = "/proc/self/exe"

// stageEnv is the stage's own environment; it lives too short to collect garbage.
var stageEnv = []string{"GOGC=off"}

// child is a stage process as it comes from the fork.
type child struct {
	pid     int
	pidfd   int
	ended   <-chan Ended
	control *control
}

// spawn forks the stage for o. On error nothing is left.
func (r *Runner) spawn(o Options, stdio [3]*os.File) (*child, error) {
	config, err := configFile(o.Config)
	if err != nil {
		return nil, err
	}
	defer config.Close()
	ours, theirs, err := controlPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()

	files := []uintptr{stdio[0].Fd(), stdio[1].Fd(), stdio[2].Fd(), config.Fd(), theirs.Fd()}
	if o.Join != nil {
		files = append(files, o.Join.Fd())
	}
	c := &child{pidfd: -1, control: ours}
	attr := &syscall.ProcAttr{
		Env:   stageEnv,
		Files: files,
		Sys:   &syscall.SysProcAttr{Setsid: true, Cloneflags: o.CloneFlags, PidFD: &c.pidfd},
	}
	if o.Cgroup != nil {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(o.Cgroup.Fd())
	}
	fork := func() (int, error) { return forkInto(o.PIDNamespace, attr) }
	c.pid, c.ended, err = r.Reaper.Start(fork)
	if errors.Is(err, unix.EBUSY) && o.OtherCgroup != nil {
		var other *os.File
		if other, err = o.OtherCgroup(); err == nil {
			attr.Sys.CgroupFD = int(other.Fd())
			c.pid, c.ended, err = r.Reaper.Start(fork)
			other.Close()
		}
	}
	runtime.KeepAlive(o)
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("start stage: %w", err)
	}
	return c, nil
}

// forkInto forks into the pid namespace that ns names, a pidfd or a namespace file, if any.
func forkInto(ns *os.File, attr *syscall.ProcAttr) (int, error) {
	argv := []string{"husk-agent", stage.Name}
	if ns == nil {
		return syscall.ForkExec(self, argv, attr)
	}
	type result struct {
		pid int
		err error
	}
	done := make(chan result, 1)
	go func() {
		// setns(CLONE_NEWPID) changes where this thread's children are born. A thread that can't be changed
		// back is given up, with its goroutine.
		runtime.LockOSThread()
		home, err := unix.Open("/proc/thread-self/ns/pid", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- result{err: fmt.Errorf("open own pid namespace: %w", err)}
			return
		}
		defer unix.Close(home)
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWPID); err != nil {
			done <- result{err: fmt.Errorf("join the container's pid namespace: %w", err)}
			return
		}
		pid, err := syscall.ForkExec(self, argv, attr)
		if unix.Setns(home, unix.CLONE_NEWPID) == nil {
			runtime.UnlockOSThread()
		}
		done <- result{pid, err}
	}()
	r := <-done
	return r.pid, r.err
}

func configFile(c stage.Config) (*os.File, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode the stage's configuration: %w", err)
	}
	fd, err := unix.MemfdCreate(stage.Name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make the stage's configuration: %w", err)
	}
	f := os.NewFile(uintptr(fd), "config")
	if _, err = f.Write(text); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("write the stage's configuration: %w", err)
	}
	return f, nil
}
