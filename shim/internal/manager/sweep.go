package manager

import (
	"errors"
	"os"

	"github.com/huskvm/husk/shim/internal/rundir"
)

// sweep cleans up after sandboxes that nobody serves and nobody will call `delete` for: those that no container was
// created in, as a `start`, or its daemon, was killed so early that the engine knows of none; and all of CRI-O's, which
// never does. Elsewhere, where there was a container, `delete` will come, and may have an exit status to tell.
func (s *Shim) sweep() error {
	dirs, err := rundir.All(s.Root)
	if err != nil {
		return err
	}
	for _, d := range dirs {
		state, err := d.Load()
		if len(state.Containers) > 0 && !state.Unowned || err != nil && !errors.Is(err, os.ErrNotExist) {
			continue
		}
		lock, err := d.Lock()
		if errors.Is(err, rundir.ErrLocked) || errors.Is(err, os.ErrNotExist) {
			continue // a sandbox about to begin, or just gone
		}
		if err != nil {
			return err
		}
		// What can't be taken away is not this sandbox's affair, and the next start tries again.
		_, _ = cleanUp(d, traces{})
		lock.Close()
	}
	return nil
}
