package hostnet

import (
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/bpf"
)

const tunDevice = "/dev/net/tun"

type tap struct {
	files []*os.File // one a queue
	link  netlink.Link
}

// makeTap makes a tap and brings it up. It is not persistent: the last process that has a file of it open takes it along.
func makeTap(h *netlink.Handle, name string, queues, mtu int) (*tap, error) {
	t := &tap{}
	err := t.open(name, queues)
	if err != nil {
		err = fmt.Errorf("make tap %s: %w", name, err)
	} else if t.link, err = setUpTap(h, name, mtu); err != nil {
		err = fmt.Errorf("set up tap %s: %w", name, err)
	}
	if err != nil {
		Tap{Files: t.files}.close()
		return nil, err
	}
	return t, nil
}

func (t *tap) open(name string, queues int) error {
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	for range queues {
		file, err := openTap(name, flags)
		if err != nil {
			return err
		}
		t.files = append(t.files, file)
	}
	_ = t.steer() // an old kernel can't: what comes is the slower for it
	return nil
}

// flowHash is where struct __sk_buff has it.
const flowHash = 68

// steer keeps each flow to one queue. Without, the tap follows the processor that sends for the flow, which for the
// acknowledgements of a transfer is now this one and now that one: its packets then overtake each other.
func (t *tap) steer() error {
	if len(t.files) == 1 {
		return nil
	}
	program, err := bpf.Check([]bpf.Instruction{
		bpf.Op(bpf.Load, 0|1<<4, flowHash, 0),
		bpf.Op(bpf.Exit, 0, 0, 0),
	}, unix.BPF_PROG_TYPE_SOCKET_FILTER, 0)
	if err != nil {
		return fmt.Errorf("load a program for steering: %w", err)
	}
	defer unix.Close(program)
	if err := unix.IoctlSetPointerInt(int(t.files[0].Fd()), unix.TUNSETSTEERINGEBPF, program); err != nil {
		return fmt.Errorf("attach a program for steering: %w", err)
	}
	return nil
}

// openTap makes a tap, or one more queue of it.
func openTap(name string, flags uint16) (*os.File, error) {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w: load the kernel's module tun", tunDevice, err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func setUpTap(h *netlink.Handle, name string, mtu int) (netlink.Link, error) {
	link, err := h.LinkByName(name)
	if err != nil {
		return nil, err
	}
	if err := h.LinkSetMTU(link, mtu); err != nil {
		return nil, fmt.Errorf("set MTU %d: %w", mtu, err)
	}
	// The host has nothing to say to the guest by itself. Where there is no IPv6 it won't anyway.
	_ = h.LinkSetIP6AddrGenMode(link, nl.IN6_ADDR_GEN_MODE_NONE)
	return link, h.LinkSetUp(link)
}
