package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	vmmv1 "github.com/huskvm/husk/proto/husk/vmm/v1"
	"github.com/huskvm/husk/shim/internal/config"
	"github.com/huskvm/husk/shim/internal/rundir"
	"github.com/huskvm/husk/vmm/client"
)

const patience = 20 * time.Second

// fakeVMM is a machine whose guest is an agent in this process. Its process is a real one, so that its pid
// means something.
type fakeVMM struct {
	vmmv1.VMMService
	agentv1.AgentService
	t   *testing.T
	dir string
	cmd *exec.Cmd

	mute    bool // the agent never connects
	bootErr error
	fail    map[string]error // by the agent's method

	mu     sync.Mutex
	calls  []string
	boot   *vmmv1.BootRequest
	tokens uint32
	status client.ExitStatus
	exits  map[string]chan uint32 // by container
	ooms   map[string]uint64      // the guest kernel's kills for want of memory, likewise

	once sync.Once
	done chan struct{}
}

func (f *fakeVMM) called(format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	call := fmt.Sprintf(format, args...)
	f.calls = append(f.calls, call)
	var method string
	_, _ = fmt.Sscan(call, &method)
	return f.fail[method]
}

func (f *fakeVMM) was(call string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(f.calls, call)
}

func (f *fakeVMM) PID() int              { return f.cmd.Process.Pid }
func (f *fakeVMM) API() vmmv1.VMMService { return vmmAPI{f} }
func (f *fakeVMM) Done() <-chan struct{} { return f.done }
func (f *fakeVMM) Status() client.ExitStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

func (f *fakeVMM) Donate(file *os.File) (uint32, error) {
	if _, err := file.Stat(); err != nil {
		return 0, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tokens++
	return f.tokens, nil
}

func (f *fakeVMM) Kill() error {
	f.end(client.ExitStatus{Process: syscall.WaitStatus(syscall.SIGKILL)})
	return nil
}

// end is the end of the VMM's process.
func (f *fakeVMM) end(status client.ExitStatus) {
	f.once.Do(func() {
		_ = f.cmd.Process.Kill()
		_ = f.cmd.Wait()
		f.mu.Lock()
		f.status = status
		f.mu.Unlock()
		close(f.done)
	})
}

// vmmAPI is the VMM's service; the agent's has methods of the same names.
type vmmAPI struct{ *fakeVMM }

func (f vmmAPI) Boot(_ context.Context, r *vmmv1.BootRequest) (*vmmv1.BootResponse, error) {
	if f.bootErr != nil {
		return nil, f.bootErr
	}
	f.mu.Lock()
	f.boot = r
	f.mu.Unlock()
	if !f.mute {
		conn, err := net.Dial("unix", filepath.Join(f.dir, rundir.AgentSocket))
		if err != nil {
			return nil, err
		}
		server, err := ttrpc.NewServer()
		if err != nil {
			return nil, err
		}
		agentv1.RegisterAgentService(server, agentAPI(f))
		go func() { _ = server.Serve(context.Background(), &oneConn{conn: conn}) }()
		go func() {
			<-f.done
			_ = server.Close()
		}()
	}
	return &vmmv1.BootResponse{}, nil
}

// oneConn is a listener with the one connection that the agent has made.
type oneConn struct {
	conn net.Conn
	once sync.Once
}

func (l *oneConn) Accept() (conn net.Conn, err error) {
	l.once.Do(func() { conn = l.conn })
	if conn == nil {
		select {} // as a listener without a further client
	}
	return conn, nil
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

func (f vmmAPI) Info(context.Context, *vmmv1.InfoRequest) (*vmmv1.InfoResponse, error) {
	return &vmmv1.InfoResponse{Marks: []*vmmv1.Mark{{Name: "first run", Nanoseconds: 1}}, ConsoleTail: []byte("the console says hello")}, nil
}

// Pause is carried out even if its caller does not wait for it.
func (f vmmAPI) Pause(ctx context.Context, _ *vmmv1.PauseRequest) (*vmmv1.PauseResponse, error) {
	return &vmmv1.PauseResponse{}, errors.Join(f.called("vmm.Pause"), ctx.Err())
}

func (f vmmAPI) Resume(context.Context, *vmmv1.ResumeRequest) (*vmmv1.ResumeResponse, error) {
	return &vmmv1.ResumeResponse{}, f.called("vmm.Resume")
}

func (f vmmAPI) AddShare(_ context.Context, r *vmmv1.AddShareRequest) (*vmmv1.AddShareResponse, error) {
	return &vmmv1.AddShareResponse{}, f.called("vmm.AddShare %s", r.Share.Name)
}

func (f vmmAPI) Crowded(ctx context.Context, _ *vmmv1.CrowdedRequest) (*vmmv1.CrowdedResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (f vmmAPI) RemoveShare(_ context.Context, r *vmmv1.RemoveShareRequest) (*vmmv1.RemoveShareResponse, error) {
	return &vmmv1.RemoveShareResponse{}, f.called("vmm.RemoveShare %s", r.Name)
}

func (f vmmAPI) AddDisk(_ context.Context, r *vmmv1.AddDiskRequest) (*vmmv1.AddDiskResponse, error) {
	return &vmmv1.AddDiskResponse{}, f.called("vmm.AddDisk %s", r.Disk.Serial)
}

func (f vmmAPI) RemoveDisk(_ context.Context, r *vmmv1.RemoveDiskRequest) (*vmmv1.RemoveDiskResponse, error) {
	return &vmmv1.RemoveDiskResponse{}, f.called("vmm.RemoveDisk %s", r.Serial)
}

func (f vmmAPI) AddThread(context.Context, *vmmv1.AddThreadRequest) (*vmmv1.AddThreadResponse, error) {
	return &vmmv1.AddThreadResponse{Id: uint32(f.PID())}, f.called("vmm.AddThread")
}

func (f vmmAPI) RemoveThread(_ context.Context, r *vmmv1.RemoveThreadRequest) (*vmmv1.RemoveThreadResponse, error) {
	return &vmmv1.RemoveThreadResponse{}, f.called("vmm.RemoveThread %d", r.Id)
}

// agentAPI is the guest's service.
type agentAPI struct{ *fakeVMM }

func (f agentAPI) Handshake(context.Context, *agentv1.HandshakeRequest) (*agentv1.HandshakeResponse, error) {
	return &agentv1.HandshakeResponse{Version: 1, Marks: []*agentv1.Mark{{Name: "init", Nanoseconds: 5}}}, f.called("Handshake")
}

func (f agentAPI) CreateContainer(_ context.Context, r *agentv1.CreateContainerRequest) (*agentv1.CreateContainerResponse, error) {
	return &agentv1.CreateContainerResponse{Pid: 2}, f.called("CreateContainer %s", r.Id)
}

func (f agentAPI) StartProcess(_ context.Context, r *agentv1.StartProcessRequest) (*agentv1.StartProcessResponse, error) {
	return &agentv1.StartProcessResponse{Pid: 2}, f.called("StartProcess %s", r.ContainerId)
}

func (f *fakeVMM) exit(id string) chan uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.exits[id] == nil {
		f.exits[id] = make(chan uint32, 1)
	}
	return f.exits[id]
}

func (f agentAPI) WaitProcess(ctx context.Context, r *agentv1.WaitProcessRequest) (*agentv1.WaitProcessResponse, error) {
	select {
	case status := <-f.exit(r.ContainerId):
		return &agentv1.WaitProcessResponse{Exit: &agentv1.Exit{Status: &status, At: time.Now().UnixNano()}}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (f agentAPI) SignalProcess(_ context.Context, r *agentv1.SignalProcessRequest) (*agentv1.SignalProcessResponse, error) {
	return &agentv1.SignalProcessResponse{}, f.called("SignalProcess %s %d", r.ContainerId, r.Signal)
}

func (f agentAPI) DeleteProcess(_ context.Context, r *agentv1.DeleteProcessRequest) (*agentv1.DeleteProcessResponse, error) {
	return &agentv1.DeleteProcessResponse{}, f.called("DeleteProcess %s", r.ContainerId)
}

func (f agentAPI) Pause(_ context.Context, r *agentv1.PauseRequest) (*agentv1.PauseResponse, error) {
	return &agentv1.PauseResponse{}, f.called("Pause %s", r.ContainerId)
}

func (f agentAPI) Resume(_ context.Context, r *agentv1.ResumeRequest) (*agentv1.ResumeResponse, error) {
	return &agentv1.ResumeResponse{}, f.called("Resume %s", r.ContainerId)
}

func (f agentAPI) Stats(_ context.Context, r *agentv1.StatsRequest) (*agentv1.StatsResponse, error) {
	memory := &agentv1.StatsResponse_Memory{Events: map[string]uint64{"oom_kill": f.ooms[r.ContainerId]}}
	return &agentv1.StatsResponse{Memory: memory}, f.called("Stats %s", r.ContainerId)
}

func (f agentAPI) DropCaches(context.Context, *agentv1.DropCachesRequest) (*agentv1.DropCachesResponse, error) {
	return &agentv1.DropCachesResponse{}, f.called("DropCaches")
}

func (f agentAPI) SyncClock(context.Context, *agentv1.SyncClockRequest) (*agentv1.SyncClockResponse, error) {
	return &agentv1.SyncClockResponse{Now: time.Now().UnixNano()}, f.called("SyncClock")
}

func (f agentAPI) NextEvent(ctx context.Context, _ *agentv1.NextEventRequest) (*agentv1.NextEventResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (f agentAPI) Shutdown(context.Context, *agentv1.ShutdownRequest) (*agentv1.ShutdownResponse, error) {
	err := f.called("Shutdown")
	go f.end(client.ExitStatus{Guest: &vmmv1.WaitResponse{Reason: vmmv1.WaitResponse_REASON_SHUTDOWN}})
	return &agentv1.ShutdownResponse{}, err
}

type sink struct {
	mu   sync.Mutex
	list []string
}

func (s *sink) Publish(m proto.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, fmt.Sprintf("%T", m)[len("*events.Task"):])
}

func (s *sink) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.list...)
}

// rig is a sandbox over fake VMMs.
type rig struct {
	*Sandbox
	sink *sink
	vmm  *fakeVMM // the last one
	// prepare changes the next VMM before it is used.
	prepare func(*fakeVMM)
	idle    chan struct{}
}

func newRig(t *testing.T, extra string) *rig {
	t.Helper()
	root, err := os.MkdirTemp("", "husk") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	dir := rundir.Of(root, "", "ns", "c")
	if err := os.Mkdir(string(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	asset := filepath.Join(t.TempDir(), "asset")
	if err := os.WriteFile(asset, []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "husk.toml")
	text := fmt.Sprintf("kernel = %q\ninitramfs = %q\nvmm_path = %q\n%s", asset, asset, asset, extra)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &rig{sink: &sink{}, prepare: func(*fakeVMM) {}, idle: make(chan struct{}, 8)}
	r.Sandbox = New(Params{
		Dir: dir, Namespace: "ns", ID: "c", Sink: r.sink,
		Config:    config.Source{Path: file, Getenv: os.Getenv},
		FirstTime: time.Hour, IdleTime: time.Hour, Idle: func() { r.idle <- struct{}{} },
		Launch: func(_ context.Context, c client.Command) (machine, error) {
			cmd := exec.Command("sleep", "600")
			if err := cmd.Start(); err != nil {
				return nil, err
			}
			f := &fakeVMM{
				t: t, dir: c.Dir, cmd: cmd, done: make(chan struct{}), fail: map[string]error{}, exits: map[string]chan uint32{},
			}
			t.Cleanup(func() { _ = f.Kill() })
			r.prepare(f)
			r.vmm = f
			return f, errors.Join(c.Cgroup(f.PID()))
		},
	})
	t.Cleanup(func() { r.Sandbox.idle.Stop() })
	return r
}

// bundle makes a bundle, whose root is a directory in it.
func bundleOf(t *testing.T, config string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if config == "" {
		config = `{"process": {"args": ["sh"], "cwd": "/"}, "root": {"path": "rootfs"}, "linux": {"namespaces": [{"type": "network"}]}}`
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

const memberSpec = `{
	"annotations": {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "c"},
	"process": {"args": ["sh"], "cwd": "/"}, "root": {"path": "rootfs"}, "linux": {}}`
