package events

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	eventsv1 "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/emptypb"
)

// daemon stands for containerd's event service.
type daemon struct{ got chan *eventsv1.ForwardRequest }

func (d daemon) Forward(_ context.Context, r *eventsv1.ForwardRequest) (*emptypb.Empty, error) {
	d.got <- r
	return &emptypb.Empty{}, nil
}

func serve(t *testing.T, socket string, d daemon) *ttrpc.Server {
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
	go func() { _ = server.Serve(t.Context(), l) }()
	t.Cleanup(func() { _ = server.Close() })
	return server
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

func TestEventsKeepTheirOrderWhileContainerdIsAway(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "c.sock")
	p := New("unix://"+socket, "ns")
	const n = 50
	for i := range n / 2 {
		p.Publish(&events.TaskExit{ContainerID: fmt.Sprint(i)})
	}
	d := daemon{make(chan *eventsv1.ForwardRequest, n)}
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

func TestAnEventSurvivesContainerdsRestart(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "c.sock")
	first := daemon{make(chan *eventsv1.ForwardRequest, 1)}
	server := serve(t, socket, first)
	p := New(socket, "ns")
	p.Publish(&events.TaskCreate{ContainerID: "c"})
	receive(t, first)
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	p.Publish(&events.TaskStart{ContainerID: "c"})
	second := daemon{make(chan *eventsv1.ForwardRequest, 1)}
	serve(t, socket, second)
	if r := receive(t, second); r.Envelope.Topic != "/tasks/start" {
		t.Fatalf("topic %s", r.Envelope.Topic)
	}
	p.Close(t.Context())
}

func TestCloseDeliversWhatIsQueued(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "c.sock")
	d := daemon{make(chan *eventsv1.ForwardRequest, 10)}
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
