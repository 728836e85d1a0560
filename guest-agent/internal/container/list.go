package container

import (
	"context"
	"fmt"
	"sync"

	"github.com/huskvm/husk/guest-agent/internal/cgroup"
	"github.com/huskvm/husk/guest-agent/internal/process"
	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
)

// List is the containers of the guest.
type List struct {
	runner  *process.Runner
	watcher *cgroup.Watcher

	mu         sync.Mutex
	containers map[string]*Container // nil while one is being created or removed
}

// NewList makes an empty list; oom is told of each container that has had an OOM kill.
func NewList(runner *process.Runner, oom func(id string)) *List {
	return &List{runner: runner, watcher: cgroup.NewWatcher(oom), containers: map[string]*Container{}}
}

// Create makes a container, up to the execve of its init.
func (l *List) Create(ctx context.Context, req *agentv1.CreateContainerRequest) (*process.Process, error) {
	id := req.GetId()
	if !l.reserve(id) {
		return nil, fmt.Errorf("container %q: %w", id, ErrExists)
	}
	c, err := create(ctx, l, req)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		delete(l.containers, id)
		return nil, err
	}
	l.containers[id] = c
	return c.Process("")
}

func (l *List) reserve(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, taken := l.containers[id]
	if !taken {
		l.containers[id] = nil
	}
	return !taken
}

// Get finds a container.
func (l *List) Get(id string) (*Container, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.containers[id]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("container %q: %w", id, ErrNotFound)
}

// initOf is the process id of a container's init, which runs.
func (l *List) initOf(id string) (int, error) {
	init, err := l.Process(id, "")
	if err != nil {
		return 0, err
	}
	if !init.Running() {
		return 0, fmt.Errorf("init of container %q: %w", id, process.ErrEnded)
	}
	return init.PID, nil
}

// Process finds a process of a container.
func (l *List) Process(id, execID string) (*process.Process, error) {
	c, err := l.Get(id)
	if err != nil {
		return nil, err
	}
	return c.Process(execID)
}

// Delete forgets a process; with the init, the container.
func (l *List) Delete(id, execID string) (*agentv1.Exit, error) {
	c, err := l.Get(id)
	if err != nil {
		return nil, err
	}
	if execID != "" {
		return c.DeleteProcess(execID)
	}
	exit, err := c.remove()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.containers, id)
	return exit, nil
}
