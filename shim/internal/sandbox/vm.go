package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/status"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	vmmv1 "github.com/huskvm/husk/proto/husk/vmm/v1"
	"github.com/huskvm/husk/shim/internal/hostcgroup"
	"github.com/huskvm/husk/shim/internal/hostnet"
	"github.com/huskvm/husk/shim/internal/rundir"
	"github.com/huskvm/husk/shim/internal/stdio"
	"github.com/huskvm/husk/vmm/client"
)

// machine is a VMM process; *client.VMM is one.
type machine interface {
	PID() int
	Donate(*os.File) (uint32, error)
	API() vmmv1.VMMService
	Done() <-chan struct{}
	Status() client.ExitStatus
	Kill() error
}

// Launch starts a VMM process.
type Launch func(context.Context, client.Command) (machine, error)

func launch(ctx context.Context, c client.Command) (machine, error) {
	v, err := client.Start(ctx, c)
	if err != nil {
		return nil, err // and not an interface that holds a nil
	}
	return v, nil
}

const (
	// shutdownTime is what the guest may take to write its file systems back.
	shutdownTime = 10 * time.Second
	// goneTime is what a VMM may take to go away after SIGKILL, and a VM after its agent has broken off.
	goneTime = 5 * time.Second
	// pauseTime is what a VMM may take to stop its vCPUs.
	pauseTime = 10 * time.Second
)

// vm is one VMM process with its guest, from the spawn until it is gone and its cgroup removed.
type vm struct {
	machine machine
	cgroup  *hostcgroup.Cgroup
	dir     rundir.Dir
	hub     *stdio.Hub        // stdio streams
	control *net.UnixListener // the agent dials it

	// ctx ends with the VM; every call to it is bound to that.
	ctx    context.Context
	cancel context.CancelFunc

	netns   string           // path of the network namespace it is connected with, if that is not its own
	network *hostnet.Network // nil without
	ports   *publisher       // nil unless the network is one in user mode
	late    bool             // an interface may come between Create and Start

	follower  *hostnet.Follower // nil when there is nothing to follow
	following sync.WaitGroup
	syncing   sync.Mutex // the guest is told of one change after the other

	listener *hostnet.Listener // takes what is dialled in the network namespace; nil when nothing does
	names    names

	forwards atomic.Int32 // connections from the host to the guest

	rpc   *ttrpc.Client
	agent agentv1.AgentService // nil until the handshake

	stopping  atomic.Bool // on the shim's own wish
	oomKilled atomic.Bool // by the host, for want of memory; valid once ctx has ended
	tail      sync.Once   // what is to do after the VM is gone
	tailErr   error

	endings    sync.Mutex
	afterwards []func() error // what is to end with the VM
	over       bool           // and has

	mu       sync.Mutex
	calls    int  // to the agent that will not wait for ever
	sleeping bool // the vCPUs are paused, or may be
	drowsy   bool // they will be when the calls that are under way have ended
}

// listen makes the sockets that the guest's dials arrive at.
func (v *vm) listen() (err error) {
	path := v.dir.Join(rundir.AgentSocket)
	v.control, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("listen for the guest's agent: %w", err)
	}
	v.hub, err = stdio.Listen(v.dir.Join(rundir.StreamSocket))
	if err != nil {
		_ = v.control.Close()
		return err
	}
	return nil
}

// spawn starts the VMM process in its cgroup.
func (v *vm) spawn(ctx context.Context, start Launch, binary string, oomScore *int) error {
	if _, err := os.Stat(binary); err != nil {
		return fmt.Errorf("find the VMM: %w: install husk-vmm beside the shim, or set vmm_path in husk's configuration", err)
	}
	logFile, err := os.OpenFile(v.dir.Join(rundir.VMMLog), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open the VMM's log: %w", err)
	}
	defer logFile.Close()
	m, err := start(ctx, client.Command{
		Path: binary, Stderr: logFile, Dir: string(v.dir),
		Cgroup: func(pid int) error {
			if err := setOOMScore(pid, oomScore); err != nil {
				return err
			}
			return v.place(pid)
		},
	})
	if err != nil {
		return err
	}
	v.machine = m
	v.ctx, v.cancel = context.WithCancel(context.Background())
	go func() {
		<-m.Done()
		v.oomKilled.Store(v.cgroup.OOMKilled())
		// Before the end is known: a VM that is booted after it listens at the same paths.
		_ = v.control.Close()
		_ = v.hub.Close()
		v.cancel()
	}()
	return nil
}

// setOOMScore gives the VMM the container's score, as the container's memory is the VMM's.
func setOOMScore(pid int, score *int) error {
	if score == nil {
		return nil
	}
	path := fmt.Sprintf("/proc/%d/oom_score_adj", pid)
	if err := os.WriteFile(path, fmt.Append(nil, *score), 0); err != nil {
		return fmt.Errorf("set the VMM's OOM score to %d: %w", *score, err)
	}
	return nil
}

var errEarlyEnd = errors.New("wait for the guest's agent")

// connect waits for the agent and shakes hands: until then, the VM's end, or the end of ctx.
func (v *vm) connect(ctx context.Context) (*agentv1.HandshakeResponse, error) {
	conns := make(chan *net.UnixConn, 1)
	go func() {
		defer close(conns)
		if conn, err := v.control.AcceptUnix(); err == nil {
			conns <- conn
		}
		_ = v.control.Close() // there is one agent
	}()
	var conn *net.UnixConn
	select {
	case conn = <-conns:
	case <-ctx.Done():
		_ = v.control.Close()
		if conn := <-conns; conn != nil {
			_ = conn.Close()
		}
		if v.ctx.Err() != nil {
			return nil, errEarlyEnd
		}
		return nil, fmt.Errorf("wait for the guest's agent: %w%s", context.Cause(ctx), v.consoleTail())
	}
	if conn == nil { // the VM has ended, or the host has no descriptors left
		select {
		case <-v.ctx.Done():
		case <-ctx.Done():
		}
		return nil, errEarlyEnd
	}
	v.rpc = ttrpc.NewClient(conn, ttrpc.WithUnaryClientInterceptor(v.bind))
	agent := agentv1.NewAgentClient(v.rpc)
	r, err := agent.Handshake(ctx, &agentv1.HandshakeRequest{Version: 1, Now: time.Now().UnixNano()})
	if err != nil {
		return nil, fmt.Errorf("shake hands with the guest's agent: %w", err)
	}
	v.agent = agent
	return r, nil
}

// bind is around every call to the agent: it wakes the vCPUs, ends the call with the VM, and gives errors
// their class.
func (v *vm) bind(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, _ *ttrpc.UnaryClientInfo, invoke ttrpc.Invoker) error {
	if req.Method != "WaitProcess" && req.Method != "NextEvent" {
		if err := v.enter(ctx, req.Method); err != nil {
			return err
		}
		defer v.leave()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(v.ctx, cancel)()
	err := invoke(ctx, req, resp)
	if err == nil {
		if resp.Status.GetCode() != 0 {
			return errgrpc.ToNative(status.ErrorProto(resp.Status))
		}
		return nil
	}
	if v.ctx.Err() != nil {
		return v.endError()
	}
	if errors.Is(err, ttrpc.ErrClosed) {
		return fmt.Errorf("the guest's agent is gone: %w", errdefs.ErrUnavailable)
	}
	return err
}

func (v *vm) enter(ctx context.Context, method string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.sleeping {
		if _, err := v.machine.API().Resume(ctx, &vmmv1.ResumeRequest{}); err != nil {
			return fmt.Errorf("resume the VM: %w", errgrpc.ToNative(err))
		}
		v.sleeping = false
	}
	if method != "SyncClock" { // which may just be under way, in two calls
		v.drowsy = false
	}
	v.calls++
	return nil
}

func (v *vm) leave() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.calls--
	if v.calls == 0 && v.drowsy {
		if err := v.stopVCPUs(v.ctx); err != nil {
			log.L.WithError(err).Warn("the vCPUs of a paused sandbox go on")
		}
	}
}

// sleep pauses the vCPUs, once nobody talks to the guest. Any further call wakes them.
func (v *vm) sleep(ctx context.Context) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.sleeping {
		return nil
	}
	if v.calls > 0 {
		v.drowsy = true
		return nil
	}
	return v.stopVCPUs(ctx)
}

// stopVCPUs is called with the lock held. It is not given up with its caller, and what fails may have stopped them all the
// same: the VM counts as sleeping in any case, as waking one that runs does nothing.
func (v *vm) stopVCPUs(ctx context.Context) error {
	v.drowsy, v.sleeping = false, true
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pauseTime)
	defer cancel()
	if _, err := v.machine.API().Pause(ctx, &vmmv1.PauseRequest{}); err != nil {
		return fmt.Errorf("pause the VM: %w", errgrpc.ToNative(err))
	}
	return nil
}

// stop ends the VM and returns when it is gone. With agreement the guest first writes back what it holds.
func (v *vm) stop(agreed bool) error {
	v.stopping.Store(true)
	if agreed && v.agent != nil {
		ctx, cancel := context.WithTimeout(v.ctx, shutdownTime)
		_, err := v.agent.Shutdown(ctx, &agentv1.ShutdownRequest{})
		if err == nil {
			select {
			case <-v.ctx.Done():
			case <-time.After(time.Second):
			}
		}
		cancel()
	}
	if err := v.machine.Kill(); err != nil {
		log.L.WithError(err).Warn("kill the VMM")
	}
	select {
	case <-v.ctx.Done():
	case <-time.After(goneTime):
		return fmt.Errorf("the VMM %d does not go away after SIGKILL", v.machine.PID())
	}
	v.tail.Do(func() {
		if v.rpc != nil {
			_ = v.rpc.Close()
		}
		v.tailErr = errors.Join(v.endAll(), v.disconnectNetwork(), v.cgroup.Remove())
	})
	return v.tailErr
}

// onEnd has f called when the VM has ended; at once when that has been.
func (v *vm) onEnd(f func() error) {
	v.endings.Lock()
	over := v.over
	if !over {
		v.afterwards = append(v.afterwards, f)
	}
	v.endings.Unlock()
	if over {
		_ = f()
	}
}

func (v *vm) endAll() error {
	v.endings.Lock()
	all := v.afterwards
	v.afterwards, v.over = nil, true
	v.endings.Unlock()
	var errs []error
	for _, f := range all {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}
