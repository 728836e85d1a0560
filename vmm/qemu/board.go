package qemu

import (
	"fmt"
	"strings"
)

// board is QEMU's machine for one architecture.
type board struct {
	system  string // the suffix of qemu-system-
	machine string // -M
	tcg     string // options of the machine under emulation
	kvm     string // and under KVM
	cpu     string // the model to emulate; KVM passes the host's through
	bus     string // suffix of virtio devices: -device for MMIO, -ccw, -pci
	vhost   string // suffix of vhost-user-vsock and -blk, which have no form for every bus
	slots   int    // devices that fit; 0 for more than anybody wants
	debian  string // package, also Ubuntu's
	fedora  string
}

// boards is by GOARCH.
var boards = map[string]board{
	// No ACPI: QEMU then names its devices on the kernel's command line and its firmware writes an MP table. What is
	// emulated has no clock of known rate: the PIT (and the PIC that kernels look for before they believe in one) is
	// what the kernel measures its APIC timer against; without either it waits for ever. KVM tells the rates.
	"amd64": {
		system: "x86_64", machine: "microvm",
		tcg:    "acpi=off,pit=on,pic=on,rtc=on,isa-serial=off,x-option-roms=off",
		kvm:    "acpi=off,pit=off,pic=on,rtc=off,isa-serial=off,x-option-roms=off",
		cpu:    "max",
		bus:    mmio,
		vhost:  mmio,
		slots:  8,
		debian: "qemu-system-x86", fedora: "qemu-system-x86-core",
	},
	// Pointer authentication by the architected algorithm takes half of the emulator's time.
	"arm64": {
		system: "aarch64", machine: "virt", tcg: "gic-version=max", kvm: "gic-version=max",
		cpu: "max,pauth-impdef=on", bus: mmio, vhost: mmio, slots: 32,
		debian: "qemu-system-arm", fedora: "qemu-system-aarch64-core",
	},
	"riscv64": {
		system: "riscv64", machine: "virt", cpu: "rv64", bus: mmio, vhost: mmio, slots: 8,
		debian: "qemu-system-misc (qemu-system-riscv from Debian 13 on)", fedora: "qemu-system-riscv-core",
	},
	"s390x": {
		system: "s390x", machine: "s390-ccw-virtio", cpu: "max", bus: ccw, vhost: pci,
		debian: "qemu-system-misc (qemu-system-s390x on Ubuntu)", fedora: "qemu-system-s390x-core",
	},
	"ppc64le": {
		system: "ppc64", machine: "pseries", cpu: "power10", bus: pci, vhost: pci,
		debian: "qemu-system-ppc", fedora: "qemu-system-ppc-core",
	},
}

// Buses that virtio devices are on.
const (
	mmio = "-device"
	ccw  = "-ccw"
	pci  = "-pci"
)

func boardOf(goarch string) (board, error) {
	b, ok := boards[goarch]
	if !ok {
		return board{}, fmt.Errorf("no QEMU machine is known for the architecture %q", goarch)
	}
	return b, nil
}

// command is the name of the board's QEMU.
func (b board) command() string { return "qemu-system-" + b.system }

// packages names what to install, for people.
func (b board) packages() string {
	return fmt.Sprintf("install the package %s (Debian, Ubuntu) or %s (Fedora)", b.debian, b.fedora)
}

// device is QEMU's name for a virtio device on this board.
func (b board) device(kind string) string {
	switch {
	case kind == "vhost-user-blk" && b.vhost == mmio:
		return kind // alone of all MMIO devices without the suffix
	case kind == "vhost-user-blk" || kind == "vhost-user-vsock":
		return kind + b.vhost
	default:
		return kind + b.bus
	}
}

// options are the -M of a machine whose memory is the object "ram".
func (b board) options(kvm bool) string {
	o := []string{b.machine}
	extra := b.tcg
	if kvm {
		extra = b.kvm
	}
	if extra != "" {
		o = append(o, extra)
	}
	// A core dump of QEMU would carry the guest's memory to the host's disk.
	return strings.Join(append(o, "dump-guest-core=off", "memory-backend=ram"), ",")
}
