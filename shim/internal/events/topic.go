package events

import (
	"fmt"

	"github.com/containerd/containerd/api/events"
	"google.golang.org/protobuf/proto"
)

// Topic is where containerd's clients look for event.
func Topic(event proto.Message) (string, error) {
	switch event.(type) {
	case *events.TaskCreate:
		return "/tasks/create", nil
	case *events.TaskStart:
		return "/tasks/start", nil
	case *events.TaskOOM:
		return "/tasks/oom", nil
	case *events.TaskExit:
		return "/tasks/exit", nil
	case *events.TaskDelete:
		return "/tasks/delete", nil
	case *events.TaskExecAdded:
		return "/tasks/exec-added", nil
	case *events.TaskExecStarted:
		return "/tasks/exec-started", nil
	case *events.TaskPaused:
		return "/tasks/paused", nil
	case *events.TaskResumed:
		return "/tasks/resumed", nil
	}
	return "", fmt.Errorf("no topic for an event of type %T", event)
}
