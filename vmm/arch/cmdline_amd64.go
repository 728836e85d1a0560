package arch

import (
	"fmt"
	"strings"
)

// Word is a word of the kernel's command line, and why it is there.
type Word struct{ Word, Reason string }

// baseWords hold for every kernel of ours on this machine.
var baseWords = []Word{
	{"panic=-1", "a panic restarts at once, which here is the end of the VM"},
	{"oops=panic", "a kernel that has gone wrong must not go on with its containers hanging"},
	{"reboot=k", "a restart is a write to the keyboard controller: unlike a triple fault (reboot=t) the VMM can tell it from a crash"},
	{"tsc=reliable", "KVM keeps the counters of all vCPUs together: no watchdog, no synchronization test as each comes up"},
	{"no_timer_check", "there is no PIT whose interrupt could be checked"},
	{"swiotlb=noforce", "no device needs bounce buffers, which take 64 MiB of a guest with memory above 4 GiB"},
	{"rcupdate.rcu_expedited=1", "mounts and namespaces wait for RCU; a guest of few processors can afford the short way"},
}

// KernelWords are the words that the machine itself needs: with serial, a console there, else no look for one;
// and one for each device.
func KernelWords(serial bool, devices []Slot) []Word {
	w := append([]Word(nil), baseWords...)
	if serial {
		w = append(w, Word{"console=ttyS0", "the serial port is there"}, Word{"8250.nr_uarts=1", "and only the first"})
	} else {
		w = append(w, Word{"8250.nr_uarts=0", "no serial port: don't look for four"})
	}
	for _, d := range devices {
		w = append(w, Word{
			fmt.Sprintf("virtio_mmio.device=4K@%#x:%d", d.Base, d.IRQ),
			"without ACPI or a device tree, the only way to tell of a device",
		})
	}
	return w
}

// Cmdline joins the machine's words and extra, which comes last and so has the last word.
func Cmdline(words []Word, extra string) (string, error) {
	all := make([]string, 0, len(words)+1)
	for _, w := range words {
		all = append(all, w.Word)
	}
	if extra = strings.TrimSpace(extra); extra != "" {
		all = append(all, extra)
	}
	line := strings.Join(all, " ")
	if len(line) > MaxCmdline {
		return "", fmt.Errorf("kernel command line of %d bytes: at most %d, of which the machine itself needs %d",
			len(line), MaxCmdline, len(line)-len(extra))
	}
	if i := strings.IndexFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f }); i >= 0 {
		return "", fmt.Errorf("kernel command line has a control character at byte %d", i)
	}
	return line, nil
}
