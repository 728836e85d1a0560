package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
)

// events follows containerd's events, as `ctr events` prints them, until the end of the test.
type events struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (e *events) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.buf.Write(p)
}

func (e *events) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.buf.String()
}

// watchEvents starts to follow; what happens before it has connected may be missed.
func watchEvents(t *testing.T) *events {
	t.Helper()
	e := &events{}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := shared.Ctr(ctx, "events")
	cmd.Stdout = e
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
	})
	return e
}

// topics are those of a container's task, in order.
func (e *events) topics(id string) []string {
	var list []string
	for line := range strings.Lines(e.String()) {
		if topic, body := parseEvent(line); body.ContainerID == id {
			list = append(list, topic)
		}
	}
	return list
}

// exit is the status in a container's TaskExit; false until it is there.
func (e *events) exit(id string) (status uint32, ok bool) {
	for line := range strings.Lines(e.String()) {
		if topic, body := parseEvent(line); topic == "/tasks/exit" && body.ContainerID == id && body.ID == id {
			return body.ExitStatus, true
		}
	}
	return 0, false
}

type eventBody struct {
	ContainerID string `json:"container_id"`
	ID          string `json:"id"`
	ExitStatus  uint32 `json:"exit_status"`
}

// parseEvent takes a line apart: time, namespace, topic, and the event as JSON.
func parseEvent(line string) (topic string, body eventBody) {
	at := strings.Index(line, " /tasks/")
	if at < 0 {
		return "", body
	}
	topic, rest, _ := strings.Cut(strings.TrimSpace(line[at:]), " ")
	if json.Unmarshal([]byte(rest), &body) != nil {
		return topic, eventBody{}
	}
	return topic, body
}

func TestEventsComeInOrder(t *testing.T) {
	e := watchEvents(t)
	b := start(t, nil, "sh", "-c", "sleep 1000 & wait")
	ctr(t, "task", "exec", "--exec-id", "x1", b.id, "true")
	ctr(t, "task", "kill", "-s", "SIGKILL", b.id)
	b.wait(t)
	want := "/tasks/create /tasks/start /tasks/exec-added /tasks/exec-started /tasks/exit /tasks/exit /tasks/delete"
	eventually(t, "the task's delete event", func() bool { return strings.Contains(e.String(), "/tasks/delete") })
	if got := strings.Join(e.topics(b.id), " "); got != want {
		t.Errorf("events are\n%s\nwant\n%s\nall: %s", got, want, e)
	}
}
