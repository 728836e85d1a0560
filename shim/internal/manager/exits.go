package manager

import (
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"github.com/huskvm/husk/shim/internal/rundir"
)

// exitFile is in a container's bundle, for when the engine asks what became of it: it asks of one container of a pod after
// the other, and with the first the sandbox is cleaned up.
const exitFile = "husk-exit.json"

// keptExit is how a container ended whose shim was killed.
type keptExit struct {
	PID    uint32    `json:"pid"`
	Status uint32    `json:"status"`
	At     time.Time `json:"at"`
}

// exitOf is what the shim has written down; nil when the container still ran.
func exitOf(state rundir.State, id string) *keptExit {
	for _, c := range state.Containers {
		if c.ID == id && c.Exit != nil {
			return &keptExit{uint32(state.VMM.PID), c.Exit.Status, c.Exit.At}
		}
	}
	return nil
}

// keepExits puts what is known into the bundles. One that is gone has been asked for.
func keepExits(state rundir.State) {
	if state.Unowned {
		return // nobody asks
	}
	for _, c := range state.Containers {
		if exit := exitOf(state, c.ID); exit != nil && c.Bundle != "" {
			if data, err := json.Marshal(exit); err == nil {
				_ = os.WriteFile(filepath.Join(c.Bundle, exitFile), data, 0o600)
			}
		}
	}
}

// exitIn is a container's in its bundle; nil when there is none.
func exitIn(bundle string) *keptExit {
	data, err := os.ReadFile(filepath.Join(bundle, exitFile))
	if err != nil {
		return nil
	}
	exit := new(keptExit)
	if json.Unmarshal(data, exit) != nil {
		return nil
	}
	return exit
}
