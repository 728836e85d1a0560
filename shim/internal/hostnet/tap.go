package hostnet

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const tunDevice = "/dev/net/tun"

type tap struct {
	file *os.File
	link netlink.Link
}

// makeTap makes a tap and brings it up. It is not persistent: the last process that has the file open takes it along.
func makeTap(h *netlink.Handle, name string, mtu int) (*tap, error) {
	file, err := openTap(name)
	if err != nil {
		return nil, fmt.Errorf("make tap %s: %w", name, err)
	}
	link, err := setUpTap(h, name, mtu)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up tap %s: %w", name, err), file.Close())
	}
	return &tap{file, link}, nil
}

func openTap(name string) (*os.File, error) {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w: load the kernel's module tun", tunDevice, err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
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
