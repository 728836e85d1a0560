// Package node puts husk on a node, and takes it away, without hurting what runs there: it is `husk install` and `husk
// remove`. Either may be repeated at any time, and does nothing when there is nothing to do.
//
// Every version has a directory of its own, PREFIX/lib/husk/DIGEST, and PREFIX/bin has links into the newest: one rename
// replaces all of husk, and what runs goes on with what it was started from. An engine is restarted only when its
// configuration has changed, and gets the old one back when it does not come up again.
package node

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/shim/internal/rundir"
)

// Node is a host, as it is seen from here.
type Node struct {
	Root   string   // the host's root; empty is this process's own
	Prefix string   // on the host; empty is /usr/local
	Engine []string // to configure; empty are those that are found
	Out    io.Writer
}

func (n *Node) prefix() string { return cmp.Or(n.Prefix, "/usr/local") }

// path is where a path of the host is here.
func (n *Node) path(elem ...string) string {
	return filepath.Join(append([]string{cmp.Or(n.Root, "/")}, elem...)...)
}

func (n *Node) lib() string { return n.path(n.prefix(), "lib/husk") }

func (n *Node) say(format string, args ...any) { fmt.Fprintf(n.Out, format+"\n", args...) }

// Install copies husk from the directory from, and configures the engines.
func (n *Node) Install(from string) error {
	return n.exclusive(func() error {
		if err := n.installPrograms(from); err != nil {
			return err
		}
		engines, err := n.engines()
		if err != nil {
			return err
		}
		for _, e := range engines {
			if err := n.configure(e, true); err != nil {
				return err
			}
		}
		return n.prune()
	})
}

// Remove takes husk away, unless one of its sandboxes runs.
func (n *Node) Remove() error {
	if _, err := os.Stat(n.lib()); errors.Is(err, os.ErrNotExist) {
		n.say("husk is not installed in %s", n.prefix())
		return nil
	}
	return n.exclusive(func() error {
		if err := n.idle(); err != nil {
			return err
		}
		engines, err := n.engines()
		if err != nil && !errors.Is(err, errNoEngine) {
			return err
		}
		for _, e := range engines {
			if err := n.configure(e, false); err != nil {
				return err
			}
		}
		// From here on no engine starts one; but one may have begun before.
		if err := n.idle(); err != nil {
			for _, e := range engines {
				err = errors.Join(err, n.configure(e, true))
			}
			return err
		}
		return n.removePrograms()
	})
}

// RemoveWhenIdle is Remove as soon as no sandbox runs. It is asked again after every interval, and ends with stop.
func (n *Node) RemoveWhenIdle(interval time.Duration, stop <-chan os.Signal) error {
	said := ""
	for {
		err := n.Remove()
		if !errors.Is(err, ErrBusy) {
			return err
		}
		if err.Error() != said {
			said = err.Error()
			n.say("waiting: %v", err)
		}
		select {
		case <-stop:
			return err
		case <-time.After(interval):
		}
	}
}

// ErrBusy says that sandboxes run.
var ErrBusy = errors.New("pods and containers of husk run on this node")

// idle fails with ErrBusy while a shim lives.
func (n *Node) idle() error {
	dirs, err := rundir.All(n.path(rundir.Root))
	if err != nil {
		return err
	}
	var names bytes.Buffer
	for _, dir := range dirs {
		if dir.Served() {
			state, _ := dir.Load()
			fmt.Fprintf(&names, " %s", cmp.Or(state.ID, filepath.Base(string(dir))))
		}
	}
	if names.Len() > 0 {
		return fmt.Errorf("%w, and would be lost: end them first (kubectl drain, ctr, nerdctl), or let this wait with -wait; sandboxes:%s", ErrBusy, names.String())
	}
	return nil
}

// exclusive runs f while no other process installs or removes husk there.
func (n *Node) exclusive(f func() error) error {
	if err := os.MkdirAll(n.lib(), 0o755); err != nil {
		return fmt.Errorf("make husk's directory: %w", err)
	}
	dir, err := os.Open(n.lib())
	if err != nil {
		return fmt.Errorf("open husk's directory: %w", err)
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another `husk install` or `husk remove` is at work in %s: %w", n.lib(), err)
	}
	return f()
}

// replace writes a file so that it is the old one or the new, whenever one looks.
func replace(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	mode := os.FileMode(0o644)
	if old, err := os.Stat(path); err == nil {
		mode = old.Mode().Perm()
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}
