package vhostuser

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// donated is a descriptor of the front end's that is only ever written, by any goroutine, and may be replaced at any
// time. Nothing waits on it: the front end need not read. The zero value has none.
type donated struct {
	mu    sync.Mutex
	fd    int
	valid bool
}

// set takes fd over. Less than 0 is none.
func (d *donated) set(fd int) {
	if fd >= 0 {
		_ = unix.SetNonblock(fd, true)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.valid {
		_ = unix.Close(d.fd)
	}
	d.fd, d.valid = fd, fd >= 0
}

// write does nothing when there is no descriptor.
func (d *donated) write(p []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.valid {
		if _, err := unix.Write(d.fd, p); err != unix.EINTR {
			return err
		}
	}
	return nil
}

var one = encodeU64(1)

// signal adds one to an eventfd's count. A count that can't grow any more has been signalled.
func (d *donated) signal() error {
	if err := d.write(one); err != nil && err != unix.EAGAIN {
		return fmt.Errorf("signal the front end: %w", err)
	}
	return nil
}

// backendConfigChanged is the one request that a back end of ours makes (VHOST_USER_BACKEND_CONFIG_CHANGE_MSG).
const backendConfigChanged = 2

// configChanged tells the front end, over the socket that it has for that, to read the configuration again. No reply
// is asked for, so nothing is ever read.
func (d *donated) configChanged() error {
	if err := d.write(header{request: backendConfigChanged, flags: flagVersion}.encode(nil)); err != nil {
		return fmt.Errorf("request to the front end: %w", err)
	}
	return nil
}
