package qemu

import (
	"fmt"
	"os"
	"strings"
)

// firstFD is the descriptor that the first inherited file has in QEMU, after stdin, stdout and stderr.
const firstFD = 3

// processName is what the host's process list says.
const processName = "husk-qemu"

// translationCache bounds what emulation keeps of translated code, in MiB. QEMU's own bound is an eighth of the host's
// memory up to 1 GiB, all of it charged to the sandbox in time.
const translationCache = 256

// sandbox is QEMU's own seccomp filter, in force before the first vCPU runs. It also sets no_new_privs.
const sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

// line is a command line under way, and the files that it names by number.
type line struct {
	args  []string
	files []*os.File
}

func (l *line) add(args ...string) { l.args = append(l.args, args...) }

// inherit passes a file on and returns its descriptor in QEMU.
func (l *line) inherit(f *os.File) int {
	l.files = append(l.files, f)
	return firstFD + len(l.files) - 1
}

// socket makes a character device of an inherited socket.
func (l *line) socket(id string, f *os.File) {
	l.add("-chardev", fmt.Sprintf("socket,id=%s,fd=%d", id, l.inherit(f)))
}

// path names an inherited file so that opening it opens the file itself anew, at its beginning.
func (l *line) path(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", l.inherit(f)) }

// arguments is QEMU's command line for a checked configuration, without the program's name, and what it inherits from
// firstFD on. The guest does not run until it is told to by QMP.
func arguments(c *Config, b board, qmp *os.File) ([]string, []*os.File) {
	var l line
	l.add("-name", "husk,debug-threads=on,process="+processName, "-M", b.options(c.KVM))
	if c.KVM {
		l.add("-accel", "kvm", "-cpu", "host")
	} else {
		l.add("-accel", fmt.Sprintf("tcg,thread=multi,tb-size=%d", translationCache), "-cpu", b.cpu)
	}
	mib := c.MemoryBytes >> 20
	l.add("-smp", fmt.Sprint(c.Processors()), "-m", fmt.Sprintf("%dM", mib),
		"-object", fmt.Sprintf("memory-backend-memfd,id=ram,size=%dM,share=on", mib)) // share: for the back ends
	l.add("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-S")
	l.add("-sandbox", sandbox)
	if b.bus == mmio {
		l.add("-global", "virtio-mmio.force-legacy=false")
	}
	l.socket("qmp", qmp)
	l.add("-mon", "chardev=qmp,mode=control")
	l.devices(c, b)
	l.add("-kernel", l.path(c.Kernel))
	if c.Initramfs != nil {
		l.add("-initrd", l.path(c.Initramfs))
	}
	l.add("-append", c.Cmdline)
	return l.args, l.files
}

func (l *line) devices(c *Config, b board) {
	if c.Console != nil {
		l.socket("console", c.Console)
		l.add("-device", b.device("virtio-serial"), "-device", "virtconsole,chardev=console")
	}
	for i, d := range c.Devices {
		id := fmt.Sprintf("device%d", i)
		l.socket(id, d.Front)
		queues := max(d.Queues, 1)
		switch d.Kind {
		case FS:
			l.add("-device", fmt.Sprintf("%s,chardev=%s,tag=%s,num-request-queues=%d", b.device("vhost-user-fs"), id, d.Tag, queues))
		case Vsock: // its CID is in the configuration space, which the back end serves
			l.add("-device", fmt.Sprintf("%s,chardev=%s", b.device("vhost-user-vsock"), id))
		case Block:
			l.add("-device", fmt.Sprintf("%s,chardev=%s,num-queues=%d", b.device("vhost-user-blk"), id, queues))
		}
	}
	for i, n := range c.NICs {
		n.Taps = n.Taps[:min(len(n.Taps), c.Processors())] // a queue that QEMU does not have open is none
		l.nic(fmt.Sprintf("net%d", i), n, b)
	}
	l.add("-object", "rng-builtin,id=entropy", "-device", b.device("virtio-rng")+",rng=entropy",
		"-device", b.device("virtio-balloon")+",free-page-reporting=on")
}

// nic is a device of QEMU's own on an inherited tap: its vhost-user for networks refuses sockets that are inherited.
func (l *line) nic(id string, n NIC, b board) {
	var fds []string
	for _, tap := range n.Taps {
		fds = append(fds, fmt.Sprint(l.inherit(tap)))
	}
	device := fmt.Sprintf("%s,netdev=%s,mac=%s", b.device("virtio-net"), id, n.MAC)
	if len(fds) == 1 {
		l.add("-netdev", fmt.Sprintf("tap,id=%s,fd=%s", id, fds[0]))
	} else {
		l.add("-netdev", fmt.Sprintf("tap,id=%s,fds=%s", id, strings.Join(fds, ":")))
		device += ",mq=on"
	}
	if n.MTU > 0 {
		device += fmt.Sprintf(",host_mtu=%d", n.MTU)
	}
	if b.bus == pci {
		device += ",romfile=" // it would look for one to boot from
	}
	l.add("-device", device)
}
