package events

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	eventsv1 "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// daemon stands for containerd's event service.
type daemon struct {
	got     chan *eventsv1.ForwardRequest
	mute    bool   // takes an event and dies before it answers
	refused string // a topic that it calls invalid
}

func (d daemon) Forward(ctx context.Context, r *eventsv1.ForwardRequest) (*emptypb.Empty, error) {
	if d.refused != "" && r.Envelope.Topic == d.refused {
		return nil, status.Error(codes.InvalidArgument, "invalid envelope")
	}
	d.got <- r
	if d.mute {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &emptypb.Empty{}, nil
}

func serve(t *testing.T, socket string, d daemon) *process {
	t.Helper()
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	eventsv1.RegisterTTRPCEventsService(server, d)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{Listener: l}
	go func() { _ = server.Serve(t.Context(), p) }()
	t.Cleanup(p.die)
	return p
}

func receive(t *testing.T, d daemon) *eventsv1.ForwardRequest {
	t.Helper()
	select {
	case r := <-d.got:
		return r
	case <-time.After(20 * time.Second):
		t.Fatal("no event arrived")
		return nil
	}
}

// wantTopics takes as many events as there are topics.
func wantTopics(t *testing.T, d daemon, topics ...string) {
	t.Helper()
	for _, want := range topics {
		if got := receive(t, d).Envelope.Topic; got != want {
			t.Fatalf("topic %s, want %s", got, want)
		}
	}
}

func TestEventsKeepTheirOrderWhileContainerdIsAway(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "c.sock")
	p := New("unix://"+socket, "ns")
	const n = 50
	for i := range n / 2 {
		p.Publish(&events.TaskExit{ContainerID: fmt.Sprint(i)})
	}
	d := daemon{got: make(chan *eventsv1.ForwardRequest, n)}
	serve(t, socket, d)
	for i := n / 2; i < n; i++ {
		p.Publish(&events.TaskExit{ContainerID: fmt.Sprint(i)})
	}
	for i := range n {
		r := receive(t, d)
		if r.Envelope.Topic != "/tasks/exit" || r.Envelope.Namespace != "ns" {
			t.Fatalf("envelope %v", r.Envelope)
		}
		v, err := typeurl.UnmarshalAny(r.Envelope.Event)
		if err != nil {
			t.Fatal(err)
		}
		if got := v.(*events.TaskExit).ContainerID; got != fmt.Sprint(i) {
			t.Fatalf("event %d is of container %s", i, got)
		}
	}
	p.Close(t.Context())
}

// process is a listener that dies with all its connections, as containerd's do when its process ends. The ttrpc
// server's own Close only asks a connection to end once it is idle: until then it goes on taking events.
type process struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func (p *process) Accept() (net.Conn, error) {
	c, err := p.Listener.Accept()
	if err == nil {
		p.mu.Lock()
		p.conns = append(p.conns, c)
		p.mu.Unlock()
	}
	return c, err
}

func (p *process) die() {
	_ = p.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
}

func TestAnEventSurvivesContainerdsRestart(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "c.sock")
	first := daemon{got: make(chan *eventsv1.ForwardRequest, 1)}
	containerd := serve(t, socket, first)
	p := New(socket, "ns")
	p.Publish(&events.TaskCreate{ContainerID: "c"})
	receive(t, first)
	for deadline := time.Now().Add(20 * time.Second); p.next() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("containerd's answer never arrived")
		}
	}
	containerd.die()
	p.Publish(&events.TaskStart{ContainerID: "c"})
	second := daemon{got: make(chan *eventsv1.ForwardRequest, 1)}
	serve(t, socket, second)
	wantTopics(t, second, "/tasks/start")
	p.Close(t.Context())
}

func TestAnEventWhoseAnswerIsLostIsSentAgainAndInOrder(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "c.sock")
	first := daemon{got: make(chan *eventsv1.ForwardRequest, 1), mute: true}
	containerd := serve(t, socket, first)
	p := New(socket, "ns")
	p.Publish(&events.TaskCreate{ContainerID: "c"})
	p.Publish(&events.TaskStart{ContainerID: "c"})
	receive(t, first)
	containerd.die()
	second := daemon{got: make(chan *eventsv1.ForwardRequest, 2)}
	serve(t, socket, second)
	wantTopics(t, second, "/tasks/create", "/tasks/start")
	p.Close(t.Context())
}

func TestAnEventThatContainerdRefusesDoesNotHoldUpTheNext(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "c.sock")
	d := daemon{got: make(chan *eventsv1.ForwardRequest, 2), refused: "/tasks/create"}
	serve(t, socket, d)
	p := New(socket, "ns")
	p.Publish(&events.TaskCreate{ContainerID: "c"})
	p.Publish(&events.TaskStart{ContainerID: "c"})
	wantTopics(t, d, "/tasks/start")
	p.Close(t.Context())
}

func TestCloseDeliversWhatIsQueued(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "c.sock")
	d := daemon{got: make(chan *eventsv1.ForwardRequest, 10)}
	serve(t, socket, d)
	p := New(socket, "ns")
	for range 10 {
		p.Publish(&events.TaskDelete{})
	}
	p.Close(t.Context())
	if len(d.got) != 10 {
		t.Fatalf("%d of 10 events delivered", len(d.got))
	}
}

func TestCloseGivesUpWithItsContext(t *testing.T) {
	p := New(filepath.Join(t.TempDir(), "absent"), "ns")
	p.Publish(&events.TaskDelete{})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	p.Close(ctx)
}

func TestWithoutAnAddressEventsAreDropped(t *testing.T) {
	p := New("", "ns")
	p.Publish(&events.TaskDelete{})
	p.Close(t.Context())
}
