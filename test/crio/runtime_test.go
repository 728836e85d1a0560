package crio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	taskv2 "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/fifo"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
)

// deadline bounds one call; emulated machines are slow.
const deadline = 2 * time.Minute

// registerTypes names what CRI-O sends, as newRuntimeVM does.
func registerTypes() {
	const prefix = "types.containerd.io"
	major := strconv.Itoa(specs.VersionMajor)
	typeurl.Register(&specs.Process{}, prefix, "opencontainers/runtime-spec", major, "Process")
	typeurl.Register(&specs.LinuxResources{}, prefix, "opencontainers/runtime-spec", major, "LinuxResources")
}

// runtimeVM is CRI-O's connection to the shim; each container has one of its own.
type runtimeVM struct {
	id     string
	bundle string
	task   taskv2.TTRPCTaskService
	client *ttrpc.Client
}

// startShim is startRuntimeDaemon: `start` in the bundle's directory, with a standard input that is empty, and both
// outputs in one, which is the address.
func startShim(id, bundle string) (*runtimeVM, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	// What containerd 1.7's shim.Command makes of a configuration without addresses.
	cmd := exec.Command(filepath.Join(*bin, "containerd-shim-husk-v2"),
		"-namespace", "default", "-address", "", "-publish-binary", self, "-id", id, "start")
	cmd.Dir = bundle
	cmd.Env = append(os.Environ(), "GOMAXPROCS=2", "TTRPC_ADDRESS=", "GRPC_ADDRESS=", "NAMESPACE=default")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log, err := fifo.OpenFifo(context.Background(), filepath.Join(bundle, "log"), unix.O_RDONLY|unix.O_CREAT|unix.O_NONBLOCK, 0o700)
	if err != nil {
		return nil, err
	}
	go func() {
		defer log.Close()
		_, _ = io.Copy(shimLog, log)
	}()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", out, err)
	}
	r := &runtimeVM{id: id, bundle: bundle}
	return r, r.connect(string(out))
}

func (r *runtimeVM) connect(address string) error {
	path, ok := strings.CutPrefix(strings.TrimSpace(address), "unix://")
	if !ok {
		return fmt.Errorf("the shim's address is %q", address)
	}
	conn, err := net.DialTimeout("unix", path, 100*time.Second)
	if err != nil {
		return err
	}
	r.client = ttrpc.NewClient(conn, ttrpc.WithOnClose(func() { conn.Close() }))
	r.task = taskv2.NewTTRPCTaskClient(r.client)
	return nil
}

// reconnect is what updateContainerStatus does first after CRI-O's own restart.
func reconnect(id, bundle string) (*runtimeVM, error) {
	address, err := os.ReadFile(filepath.Join(bundle, "address"))
	if err != nil {
		return nil, err
	}
	r := &runtimeVM{id: id, bundle: bundle}
	return r, r.connect(string(address))
}

func call[Req, Resp any](f func(context.Context, Req) (Resp, error), request Req) (Resp, error) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	response, err := f(ctx, request)
	if errors.Is(err, ttrpc.ErrClosed) {
		return response, fmt.Errorf("the shim is gone: %w", errdefs.ErrNotFound)
	}
	if err != nil {
		err = fmt.Errorf("%T: %w", request, errgrpc.ToNative(err))
	}
	return response, err
}

// create passes no mounts: the root is where the specification says.
func (r *runtimeVM) create(s stdio) (pid uint32, err error) {
	options, err := typeurl.MarshalAnyToProto(&runtimeoptions.Options{ConfigPath: huskConfig()})
	if err != nil {
		return 0, err
	}
	response, err := call(r.task.Create, &taskv2.CreateTaskRequest{
		ID: r.id, Bundle: r.bundle, Stdin: s.stdin, Stdout: s.stdout, Stderr: s.stderr, Terminal: s.terminal, Options: options,
	})
	return response.GetPid(), err
}

func (r *runtimeVM) start(exec string) error {
	_, err := call(r.task.Start, &taskv2.StartRequest{ID: r.id, ExecID: exec})
	return err
}

func (r *runtimeVM) wait(exec string) (int, error) {
	response, err := call(r.task.Wait, &taskv2.WaitRequest{ID: r.id, ExecID: exec})
	if err != nil {
		return -1, err
	}
	return int(response.ExitStatus), nil
}

func (r *runtimeVM) kill(exec string, signal syscall.Signal) error {
	_, err := call(r.task.Kill, &taskv2.KillRequest{ID: r.id, ExecID: exec, Signal: uint32(signal)})
	return err
}

// alive is IsContainerAlive.
func (r *runtimeVM) alive() bool { return r.kill("", 0) == nil }

// stop is StopContainer; without a grace period it kills at once.
func (r *runtimeVM) stop(grace time.Duration) error {
	done := make(chan error, 1)
	go func() {
		_, err := r.wait("")
		if errdefs.IsNotFound(err) {
			err = nil // the connection is closed, with the VM
		}
		done <- err
	}()
	if grace > 0 {
		if err := r.kill("", unix.SIGTERM); err != nil {
			return err
		}
		select {
		case err := <-done:
			return err
		case <-time.After(grace):
		}
	}
	if err := r.kill("", unix.SIGKILL); err != nil {
		return err
	}
	return <-done
}

// remove deletes the container and then asks the shim to end, which it does after its last one.
func (r *runtimeVM) remove() error {
	if err := r.delete(""); err != nil {
		return err
	}
	_, err := call(r.task.Shutdown, &taskv2.ShutdownRequest{ID: r.id})
	if errdefs.IsNotFound(err) {
		err = nil
	}
	return errors.Join(err, r.client.Close())
}

func (r *runtimeVM) delete(exec string) error {
	_, err := call(r.task.Delete, &taskv2.DeleteRequest{ID: r.id, ExecID: exec})
	return err
}

func (r *runtimeVM) status() (*taskv2.StateResponse, error) {
	return call(r.task.State, &taskv2.StateRequest{ID: r.id})
}

func (r *runtimeVM) update(resources *specs.LinuxResources) error {
	a, err := typeurl.MarshalAnyToProto(resources)
	if err != nil {
		return err
	}
	_, err = call(r.task.Update, &taskv2.UpdateTaskRequest{ID: r.id, Resources: a})
	return err
}

func (r *runtimeVM) stats() (*anypb.Any, error) {
	response, err := call(r.task.Stats, &taskv2.StatsRequest{ID: r.id})
	return response.GetStats(), err
}

func (r *runtimeVM) closeStdin(exec string) error {
	_, err := call(r.task.CloseIO, &taskv2.CloseIORequest{ID: r.id, ExecID: exec, Stdin: true})
	return err
}

func (r *runtimeVM) resize(exec string, width, height uint32) error {
	_, err := call(r.task.ResizePty, &taskv2.ResizePtyRequest{ID: r.id, ExecID: exec, Width: width, Height: height})
	return err
}

func (r *runtimeVM) pause() error {
	_, err := call(r.task.Pause, &taskv2.PauseRequest{ID: r.id})
	return err
}

func (r *runtimeVM) resume() error {
	_, err := call(r.task.Resume, &taskv2.ResumeRequest{ID: r.id})
	return err
}

// execTimeout is the exit code of an exec that took too long.
const execTimeout = -2

// execCommon is execContainerCommon: the process runs in the container's own specification with other arguments. input
// is nil for none, and timeout zero for no limit.
func (r *runtimeVM) execCommon(process specs.Process, tty bool, input io.Reader, timeout time.Duration, sizes ...[2]uint32) (code int, stdout, stderr string, err error) {
	id := newID()
	s, err := newStdio(r.id, tty, input != nil)
	if err != nil {
		return -1, "", "", err
	}
	defer s.close()
	begun := make(chan struct{})
	s.attach(input, func() error {
		<-begun
		return r.closeStdin(id)
	})
	a, err := typeurl.MarshalAnyToProto(&process)
	if err != nil {
		return -1, "", "", err
	}
	_, err = call(r.task.Exec, &taskv2.ExecProcessRequest{
		ID: r.id, ExecID: id, Stdin: s.stdin, Stdout: s.stdout, Stderr: s.stderr, Terminal: tty, Spec: a,
	})
	if err != nil {
		close(begun)
		return -1, "", "", err
	}
	err = r.start(id)
	close(begun)
	if err != nil {
		return -1, "", "", errors.Join(err, r.delete(id))
	}
	for _, size := range sizes {
		if err := r.resize(id, size[0], size[1]); err != nil {
			return -1, "", "", err
		}
	}
	type result struct {
		code int
		err  error
	}
	ended := make(chan result, 1)
	go func() {
		code, err := r.wait(id)
		ended <- result{code, err}
	}()
	limit := make(<-chan time.Time)
	if timeout > 0 {
		limit = time.After(timeout)
	}
	select {
	case e := <-ended:
		if e.err != nil {
			return -1, "", "", errors.Join(e.err, r.kill(id, unix.SIGKILL))
		}
		code = e.code
	case <-limit:
		if err := r.kill(id, unix.SIGKILL); err != nil {
			return -1, "", "", err
		}
		<-ended
		return execTimeout, "", "", nil
	}
	err = r.delete(id)
	s.drain()
	return code, s.out.String(), s.err.String(), err
}
