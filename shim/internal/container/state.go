package container

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// State is a container's or a process's.
type State int

// The life of a container; a process made by exec is never Paused.
const (
	Created State = iota
	Running
	Paused
	Stopped
)

func (s State) String() string { return [...]string{"created", "running", "paused", "stopped"}[s] }

type verb string

const (
	start   verb = "start"
	exec    verb = "exec in"
	kill    verb = "kill"
	pause   verb = "pause"
	resume  verb = "resume"
	update  verb = "update"
	resize  verb = "resize"
	closeIO verb = "close stdin of"
	remove  verb = "delete"
	inspect verb = "inspect"
)

// verdict is what becomes of a verb in a state.
type verdict int

const (
	does     verdict = iota // it is done
	nothing                 // it succeeds, as there is nothing to do
	refused                 // it is an error: failed precondition
	finished                // it is an error: not found, as the process is no more
)

// verdicts is what runc's shim answers, verb by verb.
var verdicts = map[verb][4]verdict{
	//       created  running  paused   stopped
	start:   {does, refused, refused, refused},
	exec:    {does, does, refused, refused},
	kill:    {does, does, does, finished},
	pause:   {refused, does, refused, refused},
	resume:  {refused, refused, does, refused},
	update:  {does, does, does, refused},
	resize:  {does, does, does, nothing},
	closeIO: {does, does, does, nothing},
	remove:  {does, refused, refused, does},
	inspect: {does, does, does, finished},
}

// judge says whether v is to be done in state s; when it is not, err says why, or is nil if that is fine.
func judge(v verb, s State) (ok bool, err error) {
	switch verdicts[v][s] {
	case does:
		return true, nil
	case nothing:
		return false, nil
	case finished:
		return false, fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	default:
		return false, fmt.Errorf("cannot %s a %s process: %w", v, s, errdefs.ErrFailedPrecondition)
	}
}
