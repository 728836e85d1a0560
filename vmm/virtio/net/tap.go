package net

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// link is one queue of the host's end: one read or write is one packet, with a header in front.
type link struct {
	name     string
	fd       int
	file     *os.File // of fd, from rearm on: the runtime's poller does not know of a link that the host's kernel serves
	tap      bool     // else a socket, which needs no set-up
	detached bool     // from the tap: nothing comes
}

// openTap makes a link of a tap device. The descriptor is a new one, so that the runtime's poller gets to know the
// tap as it is now: one it saw before TUNSETIFF is never ready.
func openTap(f *os.File) (*link, error) {
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return nil, err
	}
	if err := unix.IoctlIfreq(int(f.Fd()), unix.TUNGETIFF, ifr); err != nil {
		return nil, fmt.Errorf("not a tap attached to an interface: %w", err)
	}
	flags := ifr.Uint16()
	if flags&unix.IFF_TAP == 0 || flags&unix.IFF_NO_PI == 0 || flags&unix.IFF_VNET_HDR == 0 {
		return nil, fmt.Errorf("tap has flags %#x; create it with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR", flags)
	}
	l, err := newLink(f)
	if err != nil {
		return nil, err
	}
	l.tap = true
	for _, o := range []struct {
		name  string
		req   uint
		value int
	}{{"TUNSETVNETHDRSZ", unix.TUNSETVNETHDRSZ, headerSize}, {"TUNSETVNETLE", unix.TUNSETVNETLE, 1}} {
		if err := unix.IoctlSetPointerInt(l.fd, o.req, o.value); err != nil {
			_ = l.close()
			return nil, fmt.Errorf("%s: %w", o.name, err)
		}
	}
	return l, nil
}

func newLink(f *os.File) (*link, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate descriptor: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("set non-blocking: %w", err)
	}
	return &link{name: f.Name(), fd: fd}, nil
}

// offload tells the tap what the driver takes in packets it receives.
func (l *link) offload(features uint64) error {
	if !l.tap {
		return nil
	}
	if err := unix.IoctlSetInt(l.fd, unix.TUNSETOFFLOAD, tunOffload(features)); err != nil {
		return fmt.Errorf("TUNSETOFFLOAD: %w", err)
	}
	return nil
}

func tunOffload(features uint64) (flags int) {
	if features&featureGuestCsum == 0 {
		return 0 // the others depend on it (virtio 1.2 §5.1.3.1)
	}
	flags = unix.TUN_F_CSUM
	if features&featureGuestTSO4 != 0 {
		flags |= unix.TUN_F_TSO4
	}
	if features&featureGuestTSO6 != 0 {
		flags |= unix.TUN_F_TSO6
	}
	if features&featureGuestECN != 0 && flags != unix.TUN_F_CSUM {
		flags |= unix.TUN_F_TSO_ECN
	}
	return flags
}

// attach lets the queue take part in its tap, as it does to begin with, or not.
func (l *link) attach(on bool) error {
	if on == !l.detached {
		return nil
	}
	flag := uint16(unix.IFF_DETACH_QUEUE)
	if on {
		flag = unix.IFF_ATTACH_QUEUE
	}
	if l.tap {
		ifr, err := unix.NewIfreq("")
		if err != nil {
			return err
		}
		ifr.SetUint16(flag)
		if err := unix.IoctlIfreq(l.fd, unix.TUNSETQUEUE, ifr); err != nil {
			return fmt.Errorf("TUNSETQUEUE %#x: %w", flag, err)
		}
	}
	l.detached = !on
	return nil
}

// read waits for a packet, after rearm. os.ErrDeadlineExceeded after cancel.
func (l *link) read(p []byte) (int, error) { return l.file.Read(p) }

// write sends a packet or drops it: a network may lose packets, and the guest must not wait for the host's.
func (l *link) write(p []byte) {
	for {
		if _, err := unix.Write(l.fd, p); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// rearm makes the link ready to be read. It, cancel and close are the transport's, one at a time.
func (l *link) rearm() error {
	if l.file == nil {
		l.file = os.NewFile(uintptr(l.fd), l.name)
	}
	if err := l.file.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("wait for packets: %w", err)
	}
	return nil
}

func (l *link) cancel() error {
	if l.file == nil {
		return nil
	}
	return l.file.SetReadDeadline(time.Unix(1, 0))
}

func (l *link) close() error {
	if l.file == nil {
		return unix.Close(l.fd)
	}
	return l.file.Close()
}
