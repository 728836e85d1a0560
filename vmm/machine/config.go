package machine

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	stdnet "net"
	"os"

	"github.com/huskvm/husk/vmm/marks"
	"github.com/huskvm/husk/vmm/qemu"
	"github.com/huskvm/husk/vmm/virtio/vsock"
)

// ShareTag is the name by which the guest mounts the shared file system.
const ShareTag = "husk"

// minMemory is the least a Linux guest comes up with, whatever its kernel and initramfs need beside.
const minMemory = 32 << 20

// Config describes a machine. Files belong to the machine from New on, even if New fails.
type Config struct {
	KVM       *os.File // an open /dev/kvm: the guest runs on it in this process
	QEMU      *QEMU    // instead of KVM
	VCPUs     int
	Memory    uint64 // bytes, a multiple of 2 MiB
	Kernel    *os.File
	Initramfs *os.File // may be nil
	Cmdline   string   // appended to what the machine itself needs
	Vsock     *Vsock   // nil for none
	Shares    []Share
	Disks     []Disk
	NICs      []NIC
	// SpareDisks is how many disks may come later, at a time; less, when there is no room for so many devices.
	SpareDisks int
	VhostNet   bool      // on KVM, have the host's kernel carry the NICs' packets, where it can
	Console    io.Writer // gets the guest's console live; nil keeps it in the ring only
	Input      io.Reader // what the guest reads from its console; may be nil
	// Serial, when set, gets a serial port's output, from the kernel's first message on. Each byte is an exit:
	// for development only.
	Serial io.Writer
	Log    *slog.Logger
	Marks  *marks.List
}

// QEMU runs the guest where the built-in VMM cannot.
type QEMU struct {
	Binary      qemu.Binary
	Arch        string // of the guest, a GOARCH; empty is the host's
	Accelerated bool   // by KVM; else in software
}

// Vsock is the guest's vsock device.
type Vsock struct {
	GuestCID uint64 // at least 3
	Host     vsock.Host
}

// Share is an entry of the file system with the tag ShareTag: a directory, or exactly one file.
type Share struct {
	Name     string
	File     *os.File // O_PATH
	ReadOnly bool
	Inline   bool // no file system of its own in the guest, which may map its ids, and has ACLs there
	Root     bool // it is a container's root directory
}

// Disk is a block device of the guest.
type Disk struct {
	Serial   string
	File     *os.File
	ReadOnly bool
}

// NIC is a network interface of the guest.
type NIC struct {
	Taps []*os.File // the queues of one tap, attached to its interface, with IFF_VNET_HDR
	MAC  stdnet.HardwareAddr
	MTU  uint16 // the most the guest may set; 0 is no bound
}

func (n NIC) close() {
	for _, tap := range n.Taps {
		_ = tap.Close()
	}
}

func (c *Config) check() error {
	switch {
	case (c.KVM == nil) == (c.QEMU == nil):
		return errors.New("a machine runs on KVM or on QEMU")
	case c.QEMU != nil && c.Serial != nil:
		return errors.New("a serial console is for the built-in VMM")
	case c.Kernel == nil:
		return errors.New("no kernel was given")
	case c.VCPUs < 1:
		return fmt.Errorf("%d vCPUs: a machine has at least one", c.VCPUs)
	case c.Memory < minMemory:
		return fmt.Errorf("%d MiB of memory is too little for a guest: give it %d MiB or more", c.Memory>>20, minMemory>>20)
	case c.Memory%(2<<20) != 0:
		return fmt.Errorf("%d bytes of memory is not a multiple of 2 MiB", c.Memory)
	case c.Vsock != nil && c.Vsock.GuestCID < 3:
		return fmt.Errorf("vsock CID %d is reserved: a guest's is 3 or more", c.Vsock.GuestCID)
	}
	return nil
}

func (c *Config) close() {
	if c.KVM != nil {
		_ = c.KVM.Close()
	}
	c.closeImages()
	c.closeDevices()
}

// closeImages closes the files of which the guest has its copy.
func (c *Config) closeImages() {
	for _, f := range []*os.File{c.Kernel, c.Initramfs} {
		if f != nil {
			_ = f.Close()
		}
	}
}

func (c *Config) closeDevices() {
	for _, s := range c.Shares {
		_ = s.File.Close()
	}
	for _, d := range c.Disks {
		_ = d.File.Close()
	}
	for _, n := range c.NICs {
		n.close()
	}
}
