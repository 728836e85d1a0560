package qemu

import "strconv"

// Word is a word of the kernel's command line, and why it is there.
type Word struct{ Word, Reason string }

var everywhere = []Word{
	{"console=hvc0", "the virtio console is the only one"},
	{"panic=-1", "a panic restarts at once, which here is the end of the VM"},
	{"oops=panic", "a kernel that has gone wrong must not go on with its containers hanging"},
	{"swiotlb=noforce", "no device needs bounce buffers, which take 64 MiB of a guest with memory above 4 GiB"},
	{"rcupdate.rcu_expedited=1", "mounts and namespaces wait for RCU; a guest of few processors can afford the short way"},
}

var onPC = []Word{
	{"reboot=t", "microvm has no keyboard controller to restart by: a triple fault does it without a wait for one"},
	{"8250.nr_uarts=0", "no serial port: don't look for four"},
	{"no_timer_check", "an emulated PIT may tick late on a busy host, which is no defect"},
	{"tsc=reliable", "the counters of all vCPUs are the host's: no watchdog, no synchronization test as each comes up"},
}

// KernelWords are the words that the machine itself needs, whatever else is on the command line. QEMU adds those that
// name the devices where nothing else does (virtio_mmio.device= on microvm).
//
// An emulated PC on a PC counts time by the host's own counter, but the guest cannot know its rate, and measuring it
// against an emulated PIT fails on a busy host: the guest would be left with the clock of its timer tick.
func KernelWords(goarch string, kvm bool) []Word {
	w := append([]Word(nil), everywhere...)
	if goarch != "amd64" {
		return w
	}
	w = append(w, onPC...)
	if kHz := counterRate(); !kvm && kHz > 0 {
		w = append(w, Word{"tsc_early_khz=" + strconv.Itoa(kHz), "the host's counter, which an emulated PIT is too coarse to measure"})
	}
	return w
}
