package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"

	"github.com/huskvm/husk/guest-agent/internal/stage"
	"golang.org/x/sys/unix"
)

// stageEnv is the stage's own environment; it lives too short to collect garbage.
var stageEnv = []string{"GOGC=off"}

// child is a stage process as it comes from the fork.
type child struct {
	*birth
	ended   <-chan Ended
	control *control
}

// spawn forks the stage for o. It returns at once, however little the child gets of the processor: raise goes on. On
// error nothing is left.
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
	c := &child{control: ours}
	c.birth, err = forkInto(o, files)
	if errors.Is(err, unix.EBUSY) && o.OtherCgroup != nil {
		if o.Cgroup, err = o.OtherCgroup(); err == nil {
			c.birth, err = forkInto(o, files)
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

// raise gives the child what its own privileges may not suffice for, and returns when it has executed the stage. On
// error nothing is left.
func (r *Runner) raise(ctx context.Context, c *child, o Options) error {
	err := c.meet(ctx)
	if err == nil {
		c.ended, err = r.Reaper.Adopt(c.pid, c.pidfd, func() error {
			if u := o.User; u != nil && u.File == nil {
				if err := writeMappings(c.pid, u); err != nil {
					return err
				}
			}
			return privileged(c.pid, o)
		})
	}
	switch {
	case err == nil:
		err = c.letGo(ctx)
	case errors.Is(err, errReaped):
		err = c.death()
	}
	if err != nil {
		c.abandon()
		c.control.Close()
		return fmt.Errorf("start stage: %w", err)
	}
	return nil
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
func forkInto(o Options, files []uintptr) (*birth, error) {
	b := newBirth(o)
	var err error
	done := make(chan struct{})
	fork := func() {
		defer close(done)
		// setns(2) changes where this thread's children are born.
		for _, n := range o.Join {
			if err = unix.Setns(int(n.File.Fd()), n.Flag); err != nil {
				err = fmt.Errorf("join namespace %s: %w", n.File.Name(), err)
				return
			}
		}
		err = b.begin(files)
	}
	if len(o.Join) == 0 {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		fork()
	} else {
		go onThreadOfItsOwn(fork)
		<-done
	}
	if err != nil {
		return nil, err
	}
	return b, nil
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
