package process

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// PauseName is the argument that makes the agent's binary hold a pod's namespaces.
const PauseName = "pause"

// Pause waits for SIGTERM or SIGINT. Meanwhile it reaps: where containers share the pod's pid namespace it is their
// init. It starts nothing itself, so every child is an orphan.
func Pause() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGCHLD)
	for sig := range signals {
		if sig != unix.SIGCHLD {
			return
		}
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if pid <= 0 && err != unix.EINTR {
				break
			}
		}
	}
}
