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
	return []string{"-accel", "tcg,thread=multi", "-cpu", "max,-erms,-fsrm,-xsave"}
}

// Resolve turns Auto into what this machine can do; KVM asked for where it can't nest is an error.
// module is the one that gives a guest its /dev/kvm. root is "" outside of tests.
func (a Accel) Resolve(root string) (resolved Accel, module string, err error) {
	const emulated = "kvm_amd"
	if a == TCG {
		return TCG, emulated, nil
	}
	module, err = nestable(root)
	switch {
	case err == nil:
		return KVM, module, nil
	case a == Auto:
		return TCG, emulated, nil
	}
	return "", "", fmt.Errorf("use kvm: %w", err)
}

var errNoHardware = errors.New("the processor shows neither svm nor vmx, so a /dev/kvm here is not hardware virtualization; use -accel tcg")

// nestable names the module with which this machine's hardware can give a guest a /dev/kvm, or says why it can't.
// A /dev/kvm without svm or vmx is a paravirtual one, on which Debian's kernel does not run.
func nestable(root string) (module string, err error) {
	info, err := os.ReadFile(root + "/proc/cpuinfo")
	if err != nil {
		return "", fmt.Errorf("look for hardware virtualization: %w", err)
	}
	if module = hardwareModule(string(info)); module == "" {
		return "", errNoHardware
	}
	f, err := os.OpenFile(root+"/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	f.Close()
	nested, err := os.ReadFile(root + "/sys/module/" + module + "/parameters/nested")
	if err != nil {
		return "", fmt.Errorf("look for nested virtualization: %w", err)
	}
	if v := strings.TrimSpace(string(nested)); v != "1" && v != "Y" {
		return "", fmt.Errorf("%s is loaded without nested virtualization; load it with nested=1", module)
	}
	return module, nil
}

// hardwareModule reads /proc/cpuinfo.
func hardwareModule(info string) string {
	for line := range strings.Lines(info) {
		key, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(key) != "flags" {
			continue
		}
		for _, flag := range strings.Fields(value) {
			switch flag {
			case "svm":
				return "kvm_amd"
			case "vmx":
				return "kvm_intel"
			}
		}
		return ""
	}
	return ""
}
