package container

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	"github.com/huskvm/husk/shim/internal/stdio"
)

const patience = 20 * time.Second

// fakeGuest is an agent whose processes end when the test says so. Methods that a test needs and that are not
// here are calls of a nil interface.
type fakeGuest struct {
	agentv1.AgentService

	mu      sync.Mutex
	calls   []string
	exits   map[string]chan *agentv1.Exit
	started map[string]bool
	fail    map[string]error // by method

	gone        chan struct{} // the VM's end
	outcome     uint32
	last        *agentv1.StatsResponse
	endsAtStart bool
}

func newGuest() *fakeGuest {
	return &fakeGuest{
		exits: map[string]chan *agentv1.Exit{}, started: map[string]bool{}, fail: map[string]error{}, gone: make(chan struct{}),
	}
}

func (g *fakeGuest) called(format string, args ...any) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	call := fmt.Sprintf(format, args...)
	g.calls = append(g.calls, call)
	var method string
	_, _ = fmt.Sscan(call, &method)
	return g.fail[method]
}

func (g *fakeGuest) exit(execID string) chan *agentv1.Exit {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.exits[execID] == nil {
		g.exits[execID] = make(chan *agentv1.Exit, 1)
	}
	return g.exits[execID]
}

func (g *fakeGuest) CreateContainer(context.Context, *agentv1.CreateContainerRequest) (*agentv1.CreateContainerResponse, error) {
	return &agentv1.CreateContainerResponse{}, g.called("CreateContainer")
}

func (g *fakeGuest) ExecProcess(_ context.Context, r *agentv1.ExecProcessRequest) (*agentv1.ExecProcessResponse, error) {
	return &agentv1.ExecProcessResponse{}, g.called("ExecProcess %s %dx%d", r.ExecId, r.Stdio.Width, r.Stdio.Height)
}

func (g *fakeGuest) StartProcess(_ context.Context, r *agentv1.StartProcessRequest) (*agentv1.StartProcessResponse, error) {
	if g.endsAtStart {
		close(g.gone)
		return nil, errdefs.ErrUnavailable
	}
	return &agentv1.StartProcessResponse{}, g.called("StartProcess %s", r.ExecId)
}

func (g *fakeGuest) WaitProcess(_ context.Context, r *agentv1.WaitProcessRequest) (*agentv1.WaitProcessResponse, error) {
	select {
	case e := <-g.exit(r.ExecId):
		return &agentv1.WaitProcessResponse{Exit: e, Stats: g.last}, nil
	case <-g.gone:
		return nil, errdefs.ErrUnavailable
	}
}

func (g *fakeGuest) SignalProcess(_ context.Context, r *agentv1.SignalProcessRequest) (*agentv1.SignalProcessResponse, error) {
	err := g.called("SignalProcess %s %d", r.ExecId, r.Signal)
	if r.Signal == 9 && err == nil {
		g.exit(r.ExecId) <- exited(137)
	}
	return &agentv1.SignalProcessResponse{}, err
}

func (g *fakeGuest) ResizePty(_ context.Context, r *agentv1.ResizePtyRequest) (*agentv1.ResizePtyResponse, error) {
	return &agentv1.ResizePtyResponse{}, g.called("ResizePty %s %dx%d", r.ExecId, r.Width, r.Height)
}

func (g *fakeGuest) CloseStdin(context.Context, *agentv1.CloseStdinRequest) (*agentv1.CloseStdinResponse, error) {
	return &agentv1.CloseStdinResponse{}, g.called("CloseStdin")
}

func (g *fakeGuest) DeleteProcess(_ context.Context, r *agentv1.DeleteProcessRequest) (*agentv1.DeleteProcessResponse, error) {
	return &agentv1.DeleteProcessResponse{}, g.called("DeleteProcess %s", r.ExecId)
}

func (g *fakeGuest) Pause(context.Context, *agentv1.PauseRequest) (*agentv1.PauseResponse, error) {
	return &agentv1.PauseResponse{}, g.called("Pause")
}

func (g *fakeGuest) Resume(context.Context, *agentv1.ResumeRequest) (*agentv1.ResumeResponse, error) {
	return &agentv1.ResumeResponse{}, g.called("Resume")
}

func (g *fakeGuest) Insist(id string, done <-chan struct{}) {
	_ = g.called("Insist %s", id)
	<-done
}

func (g *fakeGuest) Outcome(error) uint32 {
	<-g.gone
	return g.outcome
}

func exited(status uint32) *agentv1.Exit {
	return &agentv1.Exit{Status: &status, At: time.Now().UnixNano()}
}

// recorder is a sink that keeps what it gets.
type recorder struct {
	mu     sync.Mutex
	events []string
}

func (r *recorder) Publish(m proto.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := fmt.Sprintf("%T", m)[len("*events.Task"):]
	switch e := m.(type) {
	case *events.TaskExit:
		text = fmt.Sprintf("Exit %s %d", e.ID, e.ExitStatus)
	case *events.TaskExecAdded:
		text += " " + e.ExecID
	case *events.TaskExecStarted:
		text += " " + e.ExecID
	}
	r.events = append(r.events, text)
}

func (r *recorder) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.events...)
}

// rig is a container in a fake guest.
type rig struct {
	*Container
	guest *fakeGuest
	sink  *recorder
	hub   *stdio.Hub
	path  string // of the hub's socket
	ended chan struct{}
}

func (r *rig) open(ctx context.Context, c stdio.Config) (*stdio.Session, error) {
	return stdio.Open(ctx, r.hub, c, stdio.Owner{})
}

func create(t *testing.T, streams stdio.Config) *rig {
	t.Helper()
	r := &rig{guest: newGuest(), sink: &recorder{}, ended: make(chan struct{})}
	r.path = filepath.Join(t.TempDir(), "hub")
	var err error
	if r.hub, err = stdio.Listen(r.path); err != nil {
		t.Fatal(err)
	}
	session, err := r.open(t.Context(), streams)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		session.Close()
		_ = r.hub.Close()
	})
	r.Container, err = Create(t.Context(), Params{
		ID: "c", Bundle: t.TempDir(), PID: 7, Stdio: streams, Session: session,
		Guest: r.guest, Sink: r.sink, Open: r.open,
		Exited: func(Exit) {}, Ended: func() { close(r.ended) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) process(t *testing.T, execID string) *Process {
	t.Helper()
	p, err := r.Process(execID)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (r *rig) start(t *testing.T, execID string) {
	t.Helper()
	if err := r.process(t, execID).Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) wait(t *testing.T, execID string) Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	exit, err := r.process(t, execID).Wait(ctx)
	if err != nil {
		t.Fatalf("wait: %v", errors.Join(err))
	}
	return exit
}

// stream is the guest connecting a stream.
func (r *rig) stream(t *testing.T, id string) *net.UnixConn {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: r.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := conn.Write(append([]byte{byte(len(id))}, id...)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return conn
}
