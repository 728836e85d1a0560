// Package vhost is vhost-net of the host's kernel (<linux/vhost.h>): a thread of its own carries packets between a pair of
// virtqueues and a tap.
//
// Opened by the machine before it is jailed, used by the network device. The kernel reads rings and descriptors that
// are the guest's; what it is told here, of memory and rings, is checked against the guest's memory first.
package vhost

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/memory"
)

const device = "/dev/vhost-net"

// The rings of a pair, as the kernel numbers them.
const (
	Receive  = 0
	Transmit = 1
)

// Net is one pair of queues.
//
//	Open ── Own ──▶ SetUp, SetRing ──▶ SetTap ──▶ served ──▶ ClearTap, Release ──▶ SetUp …
//
// Close is due in every case, and stops the kernel's thread.
type Net struct {
	file *os.File
	fd   int
}

// Open opens the kernel's device.
func Open() (*Net, error) {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: load the kernel's module vhost_net", err)
	}
	if err != nil {
		return nil, err
	}
	return FromFile(f), nil
}

// FromFile takes an open device over.
func FromFile(f *os.File) *Net { return &Net{file: f, fd: int(f.Fd())} }

// Close stops the thread and releases all.
func (n *Net) Close() error { return n.file.Close() }

// Own starts the kernel's thread, with this process's memory, privileges and cgroup.
func (n *Net) Own() error {
	if err := unix.IoctlSetInt(n.fd, setOwner, 0); err != nil {
		return fmt.Errorf("VHOST_SET_OWNER: %w", err)
	}
	return nil
}

// SetUp tells what the driver has negotiated, of which the kernel must have all of need, and where the guest's memory is.
func (n *Net) SetUp(features, need uint64, mem *memory.Space) error {
	var offered uint64
	if err := ioctl(n.fd, getFeatures, &offered); err != nil {
		return fmt.Errorf("VHOST_GET_FEATURES: %w", err)
	}
	if missing := features & need &^ offered; missing != 0 {
		return fmt.Errorf("the kernel has no features %#x", missing)
	}
	features &= need
	if err := ioctl(n.fd, setFeatures, &features); err != nil {
		return fmt.Errorf("VHOST_SET_FEATURES %#x: %w", features, err)
	}
	table := memoryTable{}
	for _, r := range mem.Regions() {
		if int(table.count) == len(table.regions) {
			return fmt.Errorf("memory of more than %d regions", len(table.regions))
		}
		table.regions[table.count] = memoryRegion{guest: r.Base, size: uint64(len(r.Bytes)), host: hostAddress(r.Bytes)}
		table.count++
	}
	if err := ioctl(n.fd, setMemTable, &table); err != nil {
		return fmt.Errorf("VHOST_SET_MEM_TABLE: %w", err)
	}
	return nil
}

// Ring is a virtqueue as its driver has set it up.
type Ring struct {
	Size                 uint16
	Desc, Driver, Device uint64 // guest physical addresses of the three areas
	Start                uint16 // index at which the rings begin
	Kick, Call, Err      int    // eventfds: of the driver, to the driver, and for an offence of the driver's
}

// SetRing gives the kernel one ring. It is served once it has a tap.
func (n *Net) SetRing(index uint32, r Ring, mem *memory.Space) error {
	size := uint64(r.Size)
	addr := vringAddr{index: index}
	for _, area := range []struct {
		host     *uint64
		at, size uint64
	}{
		// With the fields of the event index, which are there or not.
		{&addr.desc, r.Desc, 16 * size}, {&addr.avail, r.Driver, 6 + 2*size}, {&addr.used, r.Device, 6 + 8*size},
	} {
		b, err := mem.Slice(area.at, area.size)
		if err != nil {
			return fmt.Errorf("ring %d: %w", index, err)
		}
		*area.host = hostAddress(b)
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"VHOST_SET_VRING_NUM", func() error { return ioctl(n.fd, setVringNum, &vringState{index, uint32(r.Size)}) }},
		{"VHOST_SET_VRING_BASE", func() error { return ioctl(n.fd, setVringBase, &vringState{index, uint32(r.Start)}) }},
		{"VHOST_SET_VRING_ADDR", func() error { return ioctl(n.fd, setVringAddr, &addr) }},
		{"VHOST_SET_VRING_ERR", func() error { return n.file32(setVringErr, index, r.Err) }},
		{"VHOST_SET_VRING_CALL", func() error { return n.file32(setVringCall, index, r.Call) }},
		{"VHOST_SET_VRING_KICK", func() error { return n.file32(setVringKick, index, r.Kick) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("ring %d: %s: %w", index, step.name, err)
		}
	}
	return nil
}

const none = -1

// SetTap lets the kernel serve both rings on a queue of a tap.
func (n *Net) SetTap(tap int) error {
	return errors.Join(n.setBackend(Receive, tap), n.setBackend(Transmit, tap))
}

// ClearTap returns once the kernel touches neither ring any more. They can be served again from where they are.
func (n *Net) ClearTap() error { return n.SetTap(none) }

func (n *Net) setBackend(index uint32, tap int) error {
	if err := n.file32(setBackend, index, tap); err != nil {
		return fmt.Errorf("ring %d: VHOST_NET_SET_BACKEND: %w", index, err)
	}
	return nil
}

// Release lets go of the rings' eventfds, once they have no tap.
func (n *Net) Release() error {
	var errs []error
	for index := range uint32(2) {
		for _, request := range []uintptr{setVringKick, setVringCall, setVringErr} {
			errs = append(errs, n.file32(request, index, none))
		}
	}
	return errors.Join(errs...)
}

func (n *Net) file32(request uintptr, index uint32, fd int) error {
	return ioctl(n.fd, request, &vringFile{index, int32(fd)})
}
