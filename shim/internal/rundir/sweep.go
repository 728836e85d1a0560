package rundir

import (
	"errors"
	"fmt"
	"os"
)

// Sweep removes the directories under root that a `start` left when it was killed before it had its daemon: nobody
// serves them, and no state was ever written there. Whatever has a state waits for its `delete`, which may have an
// exit status to tell. The caller holds Exclusive.
func Sweep(root string) error {
	dirs, err := All(root)
	if err != nil {
		return err
	}
	for _, d := range dirs {
		if _, err := os.Lstat(d.Join(stateFile)); !errors.Is(err, os.ErrNotExist) {
			continue
		}
		lock, err := d.Lock()
		if errors.Is(err, ErrLocked) {
			continue // a sandbox about to begin
		}
		if err != nil {
			return err
		}
		err = os.RemoveAll(string(d))
		lock.Close()
		if err != nil {
			return fmt.Errorf("sweep what a killed start left: %w", err)
		}
	}
	return nil
}
