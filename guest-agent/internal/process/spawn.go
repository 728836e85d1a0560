package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
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
	for _, f := range o.Files {
		files = append(files, f.Fd())
	}
	c := &child{pidfd: -1, control: ours}
	c.pid, c.ended, err = r.Reaper.Start(func() (int, error) { return c.fork(o, files) })
	if errors.Is(err, unix.EBUSY) && o.OtherCgroup != nil {
		if o.Cgroup, err = o.OtherCgroup(); err == nil {
			c.pid, c.ended, err = r.Reaper.Start(func() (int, error) { return c.fork(o, files) })
			o.Cgroup.Close()
		}
	}
	runtime.KeepAlive(o)
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("start stage: %w", err)
	}
	return c, nil
}

// fork makes the child and gives it what its own privileges may not suffice for. Nobody reaps meanwhile.
func (c *child) fork(o Options, files []uintptr) (int, error) {
	pid, err := forkInto(o, files)
	if err != nil {
		return 0, err
	}
	if c.pidfd, err = unix.PidfdOpen(pid, 0); err == nil {
		err = privileged(pid, o)
	}
	if err != nil {
		_ = unix.Kill(pid, unix.SIGKILL) // the reaper takes it
		if c.pidfd >= 0 {
			unix.Close(c.pidfd)
		}
		return 0, err
	}
	return pid, nil
}

// privileged sets what takes the guest's root. It is written through the agent's own /proc, which no container can
// have redirected (CVE-2025-52881).
func privileged(pid int, o Options) error {
	p := o.Config.Process
	if p.OOMScoreAdj != nil {
		text := strconv.Itoa(*p.OOMScoreAdj)
		if err := os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte(text), 0); err != nil {
			return fmt.Errorf("set oomScoreAdj %s: %w", text, err)
		}
	}
	if o.User != nil {
		return stage.RaiseRlimits(pid, p.Rlimits)
	}
	return nil
}

// forkInto forks the stage in the namespaces of o.
func forkInto(o Options, files []uintptr) (int, error) {
	if len(o.Join) == 0 && o.User == nil && o.Time == nil {
		return forkPlain(o, files)
	}
	type result struct {
		pid int
		err error
	}
	done := make(chan result, 1)
	go onThreadOfItsOwn(func() {
		// setns(2) changes where this thread's children are born.
		for _, n := range o.Join {
			if err := unix.Setns(int(n.File.Fd()), n.Flag); err != nil {
				done <- result{err: fmt.Errorf("join namespace %s: %w", n.File.Name(), err)}
				return
			}
		}
		var r result
		if o.User == nil && o.Time == nil {
			r.pid, r.err = forkPlain(o, files)
		} else {
			r.pid, r.err = forkSingle(o, files)
		}
		done <- r
	})
	r := <-done
	return r.pid, r.err
}

// onThreadOfItsOwn calls f on a thread that is given up afterwards, and is not the first one: that one would never end,
// and its namespaces are what /proc shows as the agent's.
func onThreadOfItsOwn(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		f()
		return // locked, so the thread ends with the goroutine
	}
	defer runtime.UnlockOSThread()
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		f()
		close(done)
	}()
	<-done
}

func forkPlain(o Options, files []uintptr) (int, error) {
	attr := &syscall.ProcAttr{
		Env:   stageEnv,
		Files: files,
		Sys:   &syscall.SysProcAttr{Setsid: true, Cloneflags: o.CloneFlags},
	}
	if o.Cgroup != nil {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(o.Cgroup.Fd())
	}
	return syscall.ForkExec(self, []string{"husk-agent", stage.Name}, attr)
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
