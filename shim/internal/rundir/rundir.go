// Package rundir names, guards and describes the directory of one sandbox: /run/husk/<hash>.
//
// The name is derived from containerd's address, the namespace and the sandbox's id, so that everything of a
// sandbox is found without any state. Whoever serves the sandbox holds the lock in it for life; `delete` and
// the command line tool read it. Creating and removing the directory happens under a lock on their parent, so
// that a start never meets half a removal.
package rundir

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Root is where the sandboxes' directories are.
const Root = "/run/husk"

// Names in a sandbox's directory.
const (
	Socket       = "shim.sock"      // the task API
	Bootstrap    = "bootstrap.json" // what `start` answered
	Options      = "options.pb"     // the runtime's options, as an Any; missing when there are none
	lockFile     = "lock"           // held by the shim; its content says which process that is
	stateFile    = "state.json"
	AgentSocket  = "vsock.sock_1024" // the guest's agent dials it
	StreamSocket = "vsock.sock_1025" // stdio streams
	VMMLog       = "vmm.log"
	ConsoleLog   = "console.log" // when the configuration asks for it
	Timeline     = "timeline.json"
	Containers   = "containers" // a directory for each, with its mounts
)

// Dir is a sandbox's directory.
type Dir string

// Of is the directory under root of the sandbox id in namespace, as the containerd at address knows it.
// Its length leaves room for a socket's name within the 108 bytes of a unix address.
func Of(root, address, namespace, id string) Dir {
	sum := sha256.Sum256([]byte(address + "\x00" + namespace + "\x00" + id))
	return Dir(filepath.Join(root, hex.EncodeToString(sum[:8])))
}

// Join is a path in d.
func (d Dir) Join(name string) string { return filepath.Join(string(d), name) }

// All is every sandbox's directory under root.
func All(root string) ([]Dir, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	var dirs []Dir
	for _, entry := range entries {
		if entry.IsDir() {
			dirs = append(dirs, Dir(filepath.Join(root, entry.Name())))
		}
	}
	return dirs, nil
}

// Exclusive runs f while no other process creates or removes a sandbox's directory under root.
func Exclusive(root string, f func() error) error {
	if err := os.MkdirAll(root, 0o711); err != nil {
		return fmt.Errorf("create %s: %w", root, err)
	}
	dir, err := os.Open(root)
	if err != nil {
		return fmt.Errorf("open %s: %w", root, err)
	}
	defer dir.Close()
	if err := flock(dir, unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", root, err)
	}
	return f()
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// ErrLocked says that a living process serves the sandbox.
var ErrLocked = errors.New("the sandbox is being served")

// Lock takes the sandbox's lock and keeps it as long as the file, or what inherits it, is open. While it is
// held, the directory is the holder's alone to change and to remove.
func (d Dir) Lock() (*os.File, error) {
	for {
		f, err := os.OpenFile(d.Join(lockFile), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("open the sandbox's lock: %w", err)
		}
		if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, ErrLocked
			}
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		// The one that held it may have removed the directory, and another have made it anew.
		ours, err1 := f.Stat()
		now, err2 := os.Stat(f.Name())
		if err1 == nil && err2 == nil && os.SameFile(ours, now) {
			return f, nil
		}
		f.Close()
	}
}

// Served says whether a living process holds the lock.
func (d Dir) Served() bool {
	f, err := os.Open(d.Join(lockFile))
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(flock(f, unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// Remove removes the directory with everything in it. A sandbox that is gone is no error.
func (d Dir) Remove() error {
	return Exclusive(filepath.Dir(string(d)), func() error {
		if err := os.RemoveAll(string(d)); err != nil {
			return fmt.Errorf("remove the sandbox's directory: %w", err)
		}
		return nil
	})
}

// Evict kills whoever serves the sandbox and returns with the lock held. It never signals a process that is
// not the one named in the lock by pid and start time.
func (d Dir) Evict(timeout time.Duration) (*os.File, error) {
	deadline := time.Now().Add(timeout)
	for {
		lock, err := d.Lock()
		if !errors.Is(err, ErrLocked) {
			return lock, err
		}
		if holder, err := d.holder(); err == nil {
			if err := holder.Kill(time.Until(deadline)); err != nil {
				return nil, fmt.Errorf("kill the sandbox's shim: %w", err)
			}
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("sandbox %s: %w, and its process could not be ended", d, ErrLocked)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// SetHolder writes into a held lock which process keeps it.
func SetHolder(lock *os.File, p Process) error {
	text := fmt.Sprintf("%d %d\n", p.PID, p.Start)
	if _, err := lock.WriteAt([]byte(text), 0); err != nil {
		return fmt.Errorf("write %s: %w", lock.Name(), err)
	}
	return lock.Truncate(int64(len(text)))
}

func (d Dir) holder() (Process, error) {
	var p Process
	text, err := os.ReadFile(d.Join(lockFile))
	if err != nil {
		return p, err
	}
	if _, err := fmt.Sscanf(string(text), "%d %d", &p.PID, &p.Start); err != nil {
		return p, fmt.Errorf("parse %s: %w", d.Join(lockFile), err)
	}
	return p, nil
}
