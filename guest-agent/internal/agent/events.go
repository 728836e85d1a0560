package agent

import (
	"context"
	"sync"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
)

// events is a queue from the guest to the host; one caller at a time takes from it.
type events struct {
	changed chan struct{} // holds one token when there may be something to take

	mu    sync.Mutex
	queue []*agentv1.NextEventResponse
}

func (e *events) add(event *agentv1.NextEventResponse) {
	e.mu.Lock()
	e.queue = append(e.queue, event)
	e.mu.Unlock()
	e.signal()
}

func (e *events) signal() {
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

func (e *events) next(ctx context.Context) (*agentv1.NextEventResponse, error) {
	for {
		if event := e.take(); event != nil {
			return event, nil
		}
		select {
		case <-e.changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (e *events) take() *agentv1.NextEventResponse {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.queue) == 0 {
		return nil
	}
	event := e.queue[0]
	e.queue = e.queue[1:]
	if len(e.queue) > 0 {
		e.signal()
	}
	return event
}
