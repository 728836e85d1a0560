package qemu

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"strings"
)

// Config describes a QEMU process and its machine. Its files belong to Start, which closes them even if it fails.
type Config struct {
	Binary      Binary
	Arch        string // of the guest, a GOARCH
	KVM         bool   // else emulation
	VCPUs       int
	MemoryBytes uint64   // a multiple of 1 MiB; shared memory, so charged to whoever touches it first
	Kernel      *os.File // opened again by QEMU, so a regular file
	Initramfs   *os.File // likewise; may be nil
	Cmdline     string   // all of it; KernelWords are what the machine needs of it
	Devices     []Device // in this order
	NICs        []NIC
	// Console is QEMU's end of a socket pair. The other end reads what the guest writes, and must go on reading: a
	// guest whose console is full waits. What is written there is the guest's input. It may be nil.
	Console *os.File
	Log     *slog.Logger // may be nil
}

// Kind is what a Device is.
type Kind uint8

// The vhost-user devices.
const (
	FS Kind = iota
	Vsock
	Block
)

// Device is a vhost-user device. Its back end must answer on the other end of Front before Start: QEMU does not come
// up until it has its features.
type Device struct {
	Kind   Kind
	Front  *os.File // QEMU's end of the socket pair
	Tag    string   // FS: the name to mount by, at most 36 bytes
	Queues int      // FS: request queues, Block: queues; 0 is 1
}

// NIC is a network interface, on the queues of a tap that is attached to its interface. The guest gets as many of them as
// it has processors.
type NIC struct {
	Taps []*os.File
	MAC  net.HardwareAddr
	MTU  uint16 // the most the guest may set; 0 is no bound
}

// Close closes the tap.
func (n NIC) Close() {
	for _, tap := range n.Taps {
		_ = tap.Close()
	}
}

// check names what QEMU would fail with, or obey in a way that was not meant.
func (c *Config) check() error {
	b, err := boardOf(c.Arch)
	if err != nil {
		return err
	}
	switch {
	case c.Binary.Path == "":
		return errors.New("no QEMU was given")
	case c.Kernel == nil:
		return errors.New("no kernel was given")
	case c.VCPUs < 1:
		return fmt.Errorf("%d vCPUs: a machine has at least one", c.VCPUs)
	case c.MemoryBytes == 0 || c.MemoryBytes%(1<<20) != 0:
		return fmt.Errorf("%d bytes of memory is not a multiple of 1 MiB", c.MemoryBytes)
	case strings.ContainsRune(c.Cmdline, 0):
		return errors.New("the kernel's command line has a NUL byte")
	}
	if n := len(c.Devices) + len(c.NICs); b.room(n) < 0 {
		return fmt.Errorf("%d devices: QEMU's machine %s has room for %d, of which it needs %d itself", n, b.machine, b.slots, ownDevices)
	}
	for i, d := range c.Devices {
		switch {
		case d.Front == nil:
			return fmt.Errorf("device %d has no socket", i)
		case d.Queues < 0:
			return fmt.Errorf("device %d has %d queues", i, d.Queues)
		case d.Kind > Block:
			return fmt.Errorf("device %d is of the unknown kind %d", i, d.Kind)
		case d.Kind == FS && (d.Tag == "" || len(d.Tag) > 36 || strings.ContainsAny(d.Tag, ",\x00")):
			return fmt.Errorf("file system tag %q: 1 to 36 bytes without commas", d.Tag)
		}
	}
	for i, n := range c.NICs {
		if len(n.Taps) == 0 || len(n.MAC) != 6 {
			return fmt.Errorf("network interface %d needs a tap and an Ethernet address, and has the address %q", i, n.MAC)
		}
	}
	return nil
}

// ownDevices are the console, the entropy source and the balloon.
const ownDevices = 3

// Room is how many devices fit into an architecture's machine beside n.
func Room(arch string, n int) (int, error) {
	b, err := boardOf(arch)
	return b.room(n), err
}

func (b board) room(n int) int {
	if b.slots == 0 {
		return math.MaxInt
	}
	return b.slots - ownDevices - n
}

func (c *Config) close() {
	files := []*os.File{c.Kernel, c.Initramfs, c.Console}
	for _, d := range c.Devices {
		files = append(files, d.Front)
	}
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
	for _, n := range c.NICs {
		n.Close()
	}
}

// Processors is how many vCPUs the guest gets: one, where QEMU cannot emulate more and be relied on. Before 8.1 it may,
// with a thread for each, miss a vCPU's write to code that another one is translating: Linux, which patches itself at
// boot, meets its own breakpoint and panics, one time in ten on a busy host. With one thread for all of them, a guest
// whose processors are all idle may stay so for ever: one start in some forty.
func (c *Config) Processors() int {
	if !c.KVM && c.Binary.Version.Before(codeLocked) {
		return min(c.VCPUs, 1)
	}
	return c.VCPUs
}
