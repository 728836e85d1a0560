package qemu

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// Accel is how QEMU executes the guest.
type Accel string

// Auto stands for KVM where the hardware can do it and nest it, and for TCG everywhere else.
const (
	Auto Accel = "auto"
	KVM  Accel = "kvm"
	TCG  Accel = "tcg" // software; it emulates AMD-V, so the guest has a working /dev/kvm all the same
)

// ParseAccel reads the value of a flag.
func ParseAccel(s string) (Accel, error) {
	switch a := Accel(s); a {
	case Auto, KVM, TCG:
		return a, nil
	}
	return "", fmt.Errorf("unknown accelerator %q; there are auto, kvm and tcg", s)
}

func (a Accel) args() []string {
	if a == KVM {
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	return []string{"-accel", "tcg,thread=multi", "-cpu", "max"}
}

// Resolve turns Auto into what this machine can do; KVM asked for where it can't nest is an error.
// root is "/" outside of tests.
func (a Accel) Resolve(root string) (Accel, error) {
	if a == TCG {
		return TCG, nil
	}
	err := nestable(root)
	switch {
	case err == nil:
		return KVM, nil
	case a == Auto:
		return TCG, nil
	}
	return "", fmt.Errorf("use kvm: %w", err)
}

var errNoHardware = errors.New("the processor shows neither svm nor vmx, so a /dev/kvm here is not hardware virtualization; use -accel tcg")

// nestable says why this machine can't give a guest a /dev/kvm of its own by hardware.
// A /dev/kvm without svm or vmx is a paravirtual one, on which Debian's kernel does not run.
func nestable(root string) error {
	info, err := os.ReadFile(root + "/proc/cpuinfo")
	if err != nil {
		return fmt.Errorf("look for hardware virtualization: %w", err)
	}
	module := ""
	for line := range strings.Lines(string(info)) {
		key, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(key) != "flags" {
			continue
		}
		for _, flag := range strings.Fields(value) {
			switch flag {
			case "svm":
				module = "kvm_amd"
			case "vmx":
				module = "kvm_intel"
			}
		}
		break
	}
	if module == "" {
		return errNoHardware
	}
	f, err := os.OpenFile(root+"/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	f.Close()
	nested, err := os.ReadFile(root + "/sys/module/" + module + "/parameters/nested")
	if err != nil {
		return fmt.Errorf("look for nested virtualization: %w", err)
	}
	if v := strings.TrimSpace(string(nested)); v != "1" && v != "Y" {
		return fmt.Errorf("%s is loaded without nested virtualization; load it with nested=1", module)
	}
	return nil
}
