package hostnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A Listener takes every TCP connection to an address of its namespace: from within it, since what arrives from
// outside is the guest's. A connection's local address is the one that was dialled.
type Listener struct {
	*net.TCPListener
	lookup *os.File // the kernel asks the listener's program as long as this is open
}

// Listen makes a listener in the namespace at path. It keeps the namespace in being until it is closed.
func Listen(path string) (*Listener, error) {
	l := &Listener{}
	err := inside(path, func(*netlink.Handle) (err error) {
		ns, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		defer ns.Close()
		var plain net.ListenConfig
		plain.SetMultipathTCP(false) // a map of sockets has no room for it
		any, err := plain.Listen(context.Background(), "tcp", ":0")
		if err != nil {
			return err
		}
		l.TCPListener = any.(*net.TCPListener)
		if l.lookup, err = takeAll(l.TCPListener, ns); err != nil {
			return errors.Join(err, l.TCPListener.Close())
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listen in network namespace %s: %w", path, err)
	}
	return l, nil
}

// Close lets the namespace be what it was.
func (l *Listener) Close() error {
	return errors.Join(l.lookup.Close(), l.TCPListener.Close())
}

// takeAll lets a socket take what is dialled in its namespace.
func takeAll(l *net.TCPListener, ns *os.File) (*os.File, error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return nil, err
	}
	link := -1
	controlErr := raw.Control(func(socket uintptr) { link, err = attachLookup(int(socket), int(ns.Fd())) })
	if err := errors.Join(controlErr, err); err != nil {
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
			return nil, fmt.Errorf("%w: it takes Linux 5.9 with CONFIG_BPF_SYSCALL", err)
		}
		return nil, err
	}
	return os.NewFile(uintptr(link), "bpf-link"), nil
}
