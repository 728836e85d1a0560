package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/shim/internal/hostnet"
	"github.com/huskvm/husk/shim/internal/rundir"
)

// netName is husk-net's, beside the VMM.
const netName = "husk-net"

// connectUser gives the guest a network in user mode, in place of the host's.
func (v *vm) connectUser(vmm string) error {
	n, err := hostnet.User(v.ownNetns(), hostnet.KeyOf(string(v.dir)))
	if err != nil {
		return err
	}
	v.network = n.Network
	v.ports = newPublisher(v)
	v.onEnd(v.ports.close)
	defer n.Frames.Close()
	logFile, err := os.OpenFile(v.dir.Join(rundir.VMMLog), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open the VMM's log: %w", err)
	}
	defer logFile.Close()
	path := filepath.Join(filepath.Dir(vmm), netName)
	h := &helper{done: make(chan struct{})}
	started := make(chan error)
	go h.run(path, n.Args, []*os.File{n.Frames, logFile}, started)
	if err := <-started; err != nil {
		return fmt.Errorf("start the network in user mode: %w: install husk-net beside husk-vmm, or set host_network = \"none\" in husk's configuration", err)
	}
	v.onEnd(h.stop)
	if err := v.cgroup.AddAlso(h.process.Pid); err != nil {
		return err
	}
	go func() {
		<-h.done
		if v.ctx.Err() == nil {
			log.L.WithField("status", h.state).Error("husk-net ended: the guest has no network any more" + v.logTail())
		}
	}()
	return nil
}

// helper is a process that ends with this one at the latest.
type helper struct {
	process *os.Process
	done    chan struct{}
	state   *os.ProcessState // valid once done is closed
}

// run starts the process and waits for it, on a thread of its own: PDEATHSIG is sent when the thread that forked ends.
func (h *helper) run(path string, args []string, files []*os.File, started chan<- error) {
	runtime.LockOSThread() // and never unlocked
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		started <- err
		return
	}
	defer null.Close()
	frames, stderr := files[0], files[1]
	h.process, err = os.StartProcess(path, append([]string{path}, args...), &os.ProcAttr{
		Dir: "/", Env: []string{}, Files: []*os.File{null, null, stderr, frames},
		Sys: &syscall.SysProcAttr{
			Pdeathsig: syscall.SIGKILL, Setsid: true,
			Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		},
	})
	started <- err
	if err != nil {
		return
	}
	h.state, _ = h.process.Wait()
	close(h.done)
}

func (h *helper) stop() error {
	_ = h.process.Kill()
	<-h.done
	return nil
}
