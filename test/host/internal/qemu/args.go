// Package qemu knows how the test host's virtual machine is called on QEMU's command line, which accelerator this
// machine can offer it, and how to run the process so that it never outlives its starter.
package qemu

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/huskvm/husk/test/host/internal/wire"
)

// Program is the emulator, and Package what to install where it is missing.
const (
	Program = "qemu-system-x86_64"
	Package = "qemu-system-x86"
)

// The file descriptors QEMU inherits, counted from 3.
const (
	PortFD    = 3 // the virtio-serial port to the guest's init
	ConsoleFD = 4 // the serial line with the kernel's messages
	InitrdFD  = 5 // the initramfs
	KernelFD  = 6 // the kernel
)

// Machine is the virtual machine to start.
type Machine struct {
	Accel     Accel
	MemoryMiB int
	CPUs      int
	Append    string
	Shares    []Share
}

// Share is a directory offered over 9p.
type Share struct {
	Path     string
	Tag      string
	Writable bool
}

// Args returns QEMU's arguments.
//
// q35 goes without what takes emulated time to probe. multidevs=remap keeps inode numbers apart where a directory
// spans file systems. With -no-reboot a panic's reboot is the end of the process.
func (m Machine) Args() []string {
	args := []string{
		"-nodefaults", "-no-user-config", "-nographic", "-no-reboot",
		"-name", "husk-test-host",
		"-M", "q35,usb=off,vmport=off,smbus=off,sata=off,i8042=off",
		"-m", strconv.Itoa(m.MemoryMiB),
		"-smp", strconv.Itoa(m.CPUs),
		"-kernel", fmt.Sprintf("/proc/self/fd/%d", KernelFD),
		"-initrd", fmt.Sprintf("/proc/self/fd/%d", InitrdFD),
		"-append", m.Append,
		"-chardev", fmt.Sprintf("socket,id=console,fd=%d", ConsoleFD),
		"-serial", "chardev:console",
		"-chardev", fmt.Sprintf("socket,id=port,fd=%d", PortFD),
		"-device", "virtio-serial-pci",
		"-device", "virtserialport,chardev=port,name=" + wire.PortName,
	}
	args = append(args, m.Accel.args()...)
	for i, s := range m.Shares {
		id := fmt.Sprintf("share%d", i)
		option := fmt.Sprintf("local,id=%s,path=%s,security_model=none,multidevs=remap", id, escape(s.Path))
		if !s.Writable {
			option += ",readonly=on"
		}
		args = append(args, "-fsdev", option, "-device", fmt.Sprintf("virtio-9p-pci,fsdev=%s,mount_tag=%s", id, escape(s.Tag)))
	}
	return args
}

// escape doubles commas, which otherwise end a value in QEMU's options.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }
