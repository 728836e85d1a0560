// Package client starts one husk-vmm process and steers it. It is what a shim links; the VMM itself stays in a
// process of its own, so that a jail, a cgroup and a crash are its alone.
package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	vmmv1 "github.com/huskvm/husk/proto/husk/vmm/v1"
)

// Command says how to start the process.
type Command struct {
	Path   string   // of the husk-vmm binary
	Stderr *os.File // where its log goes; nil is /dev/null
	// Dir is its working directory; empty is /.
	Dir string
	// Cgroup, when set, is called with the process's id before it uses any memory or CPU worth the name.
	Cgroup func(pid int) error
}

// VMM is one husk-vmm process. It lives until its guest ends, Kill, or the end of the process that started it.
type VMM struct {
	process *os.Process
	rpc     *ttrpc.Client
	api     vmmv1.VMMService
	donor   *os.File
	done    chan struct{}

	mu     sync.Mutex
	tokens uint32
	status ExitStatus // valid once done is closed
}

// ExitStatus is how a VMM ended.
type ExitStatus struct {
	// Guest is the VMM's own account of how its guest ended; nil when the process was killed or crashed.
	Guest *vmmv1.WaitResponse
	// Process is the wait status of the process itself.
	Process syscall.WaitStatus
}

// Start spawns the process. The caller must in the end see Done closed: by the guest's end, or by Kill.
func Start(ctx context.Context, c Command) (*VMM, error) {
	control, controlPeer, err := socketpair(unix.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	donor, donorPeer, err := socketpair(unix.SOCK_SEQPACKET)
	if err != nil {
		_ = control.Close()
		_ = controlPeer.Close()
		return nil, err
	}
	conn, err := net.FileConn(control)
	_ = control.Close()
	if err != nil {
		_ = controlPeer.Close()
		_ = donorPeer.Close()
		_ = donor.Close()
		return nil, fmt.Errorf("control socket of %s: %w", c.Path, err)
	}

	v := &VMM{donor: donor, done: make(chan struct{})}
	started, exited := make(chan error), make(chan syscall.WaitStatus, 1)
	go v.run(c, []*os.File{controlPeer, donorPeer}, started, exited)
	err = <-started
	// Only the process has these from here on, so that its end is the end of the connections.
	_ = controlPeer.Close()
	_ = donorPeer.Close()
	if err != nil {
		_ = donor.Close()
		_ = conn.Close()
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	v.rpc = ttrpc.NewClient(conn)
	v.api = vmmv1.NewVMMClient(v.rpc)
	go v.watch(exited)

	if c.Cgroup != nil {
		if err := c.Cgroup(v.PID()); err != nil {
			_ = v.Kill()
			<-v.done
			return nil, err
		}
	}
	return v, nil
}

// run spawns the process and waits for it on one thread that does nothing else: PDEATHSIG is sent when the
// thread that forked ends, not the process.
func (v *VMM) run(c Command, files []*os.File, started chan<- error, exited chan<- syscall.WaitStatus) {
	runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		started <- err
		return
	}
	defer null.Close()
	stderr := c.Stderr
	if stderr == nil {
		stderr = null
	}
	dir := c.Dir
	if dir == "" {
		dir = "/"
	}
	v.process, err = os.StartProcess(c.Path, []string{c.Path, "serve"}, &os.ProcAttr{
		Dir:   dir,
		Env:   []string{}, // nothing of the orchestrator's environment is the VMM's business
		Files: append([]*os.File{null, null, stderr}, files...),
		Sys: &syscall.SysProcAttr{
			Pdeathsig:  syscall.SIGKILL,
			Setsid:     true,
			Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWNET,
		},
	})
	started <- err
	if err != nil {
		return
	}
	state, err := v.process.Wait()
	if err != nil {
		// Somebody else reaped it: a status that nobody saw counts as a kill.
		exited <- syscall.WaitStatus(syscall.SIGKILL)
		return
	}
	exited <- state.Sys().(syscall.WaitStatus)
}

// watch collects the guest's end and the process's, and closes done.
func (v *VMM) watch(exited <-chan syscall.WaitStatus) {
	guest, err := v.api.Wait(context.Background(), &vmmv1.WaitRequest{})
	if err != nil {
		guest = nil
	}
	// The VMM takes this as leave to exit.
	_ = v.rpc.Close()
	status := <-exited
	v.mu.Lock()
	v.status = ExitStatus{Guest: guest, Process: status}
	v.mu.Unlock()
	_ = v.donor.Close()
	close(v.done)
}

// PID is the process's id on the host.
func (v *VMM) PID() int { return v.process.Pid }

// API is the process's service. Calls fail once the process is gone.
func (v *VMM) API() vmmv1.VMMService { return v.api }

// Done is closed when the process is gone and reaped.
func (v *VMM) Done() <-chan struct{} { return v.done }

// Status is valid once Done is closed.
func (v *VMM) Status() ExitStatus {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.status
}

// Kill sends SIGKILL. A process that is gone already is no error.
func (v *VMM) Kill() error {
	if err := v.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill husk-vmm %d: %w", v.PID(), err)
	}
	return nil
}

// Donate gives the process a duplicate of f and returns the token by which requests name it. f stays the
// caller's.
func (v *VMM) Donate(f *os.File) (uint32, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	token := v.tokens + 1
	fds := unix.UnixRights(int(f.Fd()))
	if err := unix.Sendmsg(int(v.donor.Fd()), []byte(strconv.Itoa(int(token))), fds, nil, unix.MSG_NOSIGNAL); err != nil {
		return 0, fmt.Errorf("donate %s to husk-vmm: %w", f.Name(), err)
	}
	v.tokens = token
	return token, nil
}

func socketpair(kind int) (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("create socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "husk-vmm"), os.NewFile(uintptr(fds[1]), "husk-vmm peer"), nil
}
