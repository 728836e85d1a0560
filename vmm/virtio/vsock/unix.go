package vsock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// SocketName is the usual name of the socket on which connections to the guest are accepted.
const SocketName = "vsock.sock"

// UnixHost takes the guest's connections to port P at the unix socket whose name is its own, "_" and P: the
// convention of Firecracker and Cloud Hypervisor. A relative name is resolved in the working directory at every
// dial.
type UnixHost string

// How long a listener's queue may stay full.
const backlogWait = 5 * time.Second

// Dial implements Host.
func (u UnixHost) Dial(ctx context.Context, port uint32) (Conn, error) {
	name := string(u) + "_" + strconv.FormatUint(uint64(port), 10)
	ctx, cancel := context.WithTimeout(ctx, backlogWait)
	defer cancel()
	var dialer net.Dialer
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		c, err := dialer.DialContext(ctx, "unix", name)
		if err == nil {
			return c.(*net.UnixConn), nil
		}
		// A socket that doesn't block says so instead of waiting for room in the listener's queue.
		if !errors.Is(err, unix.EAGAIN) {
			return nil, fmt.Errorf("dial port %d of the host: %w", port, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("dial port %d of the host: its queue stays full: %w", port, ctx.Err())
		case <-time.After(pause):
		}
	}
}
