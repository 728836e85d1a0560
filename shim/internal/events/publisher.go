// Package events forwards task events to containerd, in the order in which they were published.
//
// The task service publishes; containerd may be down meanwhile. An event is kept until containerd answers for it,
// or until the shim ends. One whose answer is lost is sent again: containerd sees each at least once. A runtime
// client that gives no address (CRI-O) gets no events.
package events

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	eventsv1 "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// maxQueued bounds what a containerd that never returns can make the shim hold.
	maxQueued = 4096

	forwardTimeout = 5 * time.Second
	firstRetry     = 100 * time.Millisecond
	lastRetry      = 5 * time.Second
)

// Publisher owns one connection to containerd and one goroutine that feeds it.
type Publisher struct {
	address   string
	namespace string

	wake chan struct{}
	stop context.CancelFunc
	done chan struct{}

	mu      sync.Mutex
	queue   []*types.Envelope
	closing bool
	drained chan struct{} // closed when closing and the queue is empty
}

// New starts a publisher for containerd's ttrpc socket at address. With an empty address events are dropped.
func New(address, namespace string) *Publisher {
	ctx, stop := context.WithCancel(context.Background())
	p := &Publisher{
		address:   strings.TrimPrefix(address, "unix://"),
		namespace: namespace,
		wake:      make(chan struct{}, 1),
		stop:      stop,
		done:      make(chan struct{}),
		drained:   make(chan struct{}),
	}
	go p.run(ctx)
	return p
}

// Publish queues event. It never blocks, and events leave in the order of their calls.
func (p *Publisher) Publish(event proto.Message) {
	if p.address == "" {
		return
	}
	topic, err := Topic(event)
	if err != nil {
		log.L.WithError(err).Error("publish event")
		return
	}
	body, err := typeurl.MarshalAnyToProto(event)
	if err != nil {
		log.L.WithError(err).WithField("topic", topic).Error("marshal event")
		return
	}
	envelope := &types.Envelope{Timestamp: timestamppb.Now(), Namespace: p.namespace, Topic: topic, Event: body}

	p.mu.Lock()
	if len(p.queue) >= maxQueued {
		log.L.WithField("topic", p.queue[0].Topic).Error("drop event: containerd has not answered for too long")
		p.queue = p.queue[1:]
	}
	p.queue = append(p.queue, envelope)
	p.mu.Unlock()
	p.signal()
}

// Close waits until everything queued was taken or ctx ends, then stops. Nothing may be published after it.
func (p *Publisher) Close(ctx context.Context) {
	p.mu.Lock()
	p.closing = true
	p.mu.Unlock()
	p.signal()
	select {
	case <-p.drained:
	case <-ctx.Done():
	}
	p.stop()
	<-p.done
}

func (p *Publisher) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// next is the oldest event, or nil.
func (p *Publisher) next() *types.Envelope {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) > 0 {
		return p.queue[0]
	}
	if p.closing {
		select {
		case <-p.drained:
		default:
			close(p.drained)
		}
	}
	return nil
}

// pop removes sent, unless the bound on the queue has removed it already.
func (p *Publisher) pop(sent *types.Envelope) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) > 0 && p.queue[0] == sent {
		p.queue = p.queue[1:]
	}
}

func (p *Publisher) run(ctx context.Context) {
	defer close(p.done)
	var conn *connection
	defer func() { conn.close() }()
	retry := firstRetry
	for {
		envelope := p.next()
		if envelope == nil {
			select {
			case <-p.wake:
			case <-ctx.Done():
				return
			}
			continue
		}
		var err error
		if conn == nil {
			conn, err = dial(ctx, p.address)
		}
		if err == nil {
			err = conn.forward(ctx, envelope)
		}
		if errdefs.IsInvalidArgument(errgrpc.ToNative(err)) { // and would be next time
			log.L.WithError(err).WithField("topic", envelope.Topic).Error("drop event: containerd refuses it")
			err = nil
		}
		if err == nil {
			p.pop(envelope)
			retry = firstRetry
			continue
		}
		log.L.WithError(err).WithField("topic", envelope.Topic).Debug("forward event, will retry")
		conn.close()
		conn = nil
		select {
		case <-time.After(retry):
		case <-ctx.Done():
			return
		}
		retry = min(2*retry, lastRetry)
	}
}

type connection struct {
	client  *ttrpc.Client
	service eventsv1.TTRPCEventsService
}

func dial(ctx context.Context, address string) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", address)
	if err != nil {
		return nil, fmt.Errorf("dial containerd's events at %s: %w", address, err)
	}
	client := ttrpc.NewClient(conn)
	return &connection{client, eventsv1.NewTTRPCEventsClient(client)}, nil
}

func (c *connection) forward(ctx context.Context, envelope *types.Envelope) error {
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	_, err := c.service.Forward(ctx, &eventsv1.ForwardRequest{Envelope: envelope})
	return err
}

func (c *connection) close() {
	if c != nil {
		_ = c.client.Close()
	}
}
