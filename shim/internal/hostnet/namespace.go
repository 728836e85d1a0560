package hostnet

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// errNoNamespace says that a path is not a network namespace, or not any more: the file under a mount that is gone.
var errNoNamespace = errors.New("not a network namespace")

// errOwnNamespace says that a path is the namespace this process is in: the host's.
var errOwnNamespace = errors.New("the namespace is the host's")

// inside runs f in the network namespace at path: no thread that anything else runs on is ever in a foreign namespace,
// whatever goes wrong.
func inside(path string, f func(*netlink.Handle) error) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer file.Close()
	// Taking over the interfaces of the host itself would cut it off.
	own, err := os.Stat("/proc/self/ns/net")
	if err != nil {
		return fmt.Errorf("find the host's namespace: %w", err)
	}
	if theirs, err := file.Stat(); err != nil || os.SameFile(own, theirs) {
		return errors.Join(err, errOwnNamespace)
	}
	return onThreadOfItsOwn(func() error { return enter(file, f) })
}

// onThreadOfItsOwn runs f on a thread that ends with it. That is not the main one, which never ends: parked in the
// foreign namespace it would keep that in being, and be the process's in /proc.
func onThreadOfItsOwn(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// While this goroutine holds the main thread, the next gets another.
			err := onThreadOfItsOwn(f)
			runtime.UnlockOSThread()
			done <- err
			return
		}
		done <- f() // never unlocked
	}()
	return <-done
}

func enter(file *os.File, f func(*netlink.Handle) error) error {
	if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
		if errors.Is(err, unix.EINVAL) {
			return errNoNamespace
		}
		return fmt.Errorf("enter: %w", err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open a netlink socket: %w", err)
	}
	defer h.Close()
	return f(h)
}
