package hostnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A Listener takes every TCP connection to an address of its namespace: from within it, since what arrives from
// outside is the guest's. A connection's local address is the one that was dialled.
type Listener struct {
	*net.TCPListener
	lookup *os.File // the kernel asks the listener's program as long as this is open
	passed *os.File // the addresses that it leaves alone
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
		if err := l.takeAll(ns); err != nil {
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
	return errors.Join(l.lookup.Close(), l.passed.Close(), l.TCPListener.Close())
}

// Pass leaves an IPv4 address of the namespace to who listens there.
func (l *Listener) Pass(ip netip.Addr) error {
	if err := addPassed(int(l.passed.Fd()), ip.As4()); err != nil {
		return fmt.Errorf("leave %s to the namespace: %w", ip, err)
	}
	return nil
}

// takeAll lets the socket take what is dialled in its namespace.
func (l *Listener) takeAll(ns *os.File) error {
	raw, err := l.TCPListener.SyscallConn()
	if err != nil {
		return err
	}
	passed, err := makePassed()
	if err != nil {
		return needs(err)
	}
	l.passed = os.NewFile(uintptr(passed), "bpf-map")
	link := -1
	controlErr := raw.Control(func(socket uintptr) { link, err = attachLookup(int(socket), passed, int(ns.Fd())) })
	if err := errors.Join(controlErr, err); err != nil {
		return errors.Join(needs(err), l.passed.Close())
	}
	l.lookup = os.NewFile(uintptr(link), "bpf-link")
	return nil
}

func needs(err error) error {
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("%w: it takes Linux 5.9 with CONFIG_BPF_SYSCALL", err)
	}
	return err
}
