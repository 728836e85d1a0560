// Package backend chooses what runs a guest on this host: KVM and the built-in VMM, or a QEMU.
//
// KVM is usable when its device opens, has the capabilities that the built-in VMM needs, and has hardware
// virtualization behind it. Where it is not, a QEMU runs the guest in software; on an architecture without a built-in
// VMM, QEMU runs it on KVM.
package backend

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/huskvm/husk/vmm/arch"
	"github.com/huskvm/husk/vmm/kvm"
	"github.com/huskvm/husk/vmm/qemu"
)

// Kind is a backend.
type Kind string

// The backends, as the configuration names them.
const (
	Auto Kind = "auto" // KVM where it is usable, else QEMU
	KVM  Kind = "kvm"
	QEMU Kind = "qemu"
)

// Kinds are all that a Wish may ask for.
var Kinds = []Kind{Auto, KVM, QEMU}

// Wish is what somebody wants.
type Wish struct {
	Kind   Kind   // empty is Auto
	Device string // of KVM; empty is /dev/kvm
	QEMU   string // path of its binary; empty looks for it
}

// Choice is what it will be, and why, in a few words.
type Choice struct {
	Kind        Kind // KVM or QEMU
	Reason      string
	QEMU        qemu.Binary // when Kind is QEMU
	Accelerated bool        // QEMU runs the guest on KVM
}

func (w Wish) device() string { return cmp.Or(w.Device, "/dev/kvm") }

// Choose answers a wish. An error says why no backend is usable, and the remedy.
func Choose(w Wish) (Choice, error) {
	switch w.Kind {
	case Auto, "":
		return w.auto()
	case KVM:
		if err := w.Usable(); err != nil {
			return Choice{}, fmt.Errorf("vmm = %q, but KVM is not usable: %w", KVM, err)
		}
		return Choice{Kind: KVM, Reason: fmt.Sprintf("vmm = %q", KVM)}, nil
	case QEMU:
		return w.qemu(fmt.Sprintf("vmm = %q", QEMU))
	}
	return Choice{}, fmt.Errorf("vmm is %q: it is one of %q", w.Kind, Kinds)
}

func (w Wish) auto() (Choice, error) {
	unusable := w.Usable()
	if unusable == nil {
		return Choice{Kind: KVM, Reason: w.device() + " is usable"}, nil
	}
	c, err := w.qemu(fmt.Sprintf("KVM is not usable here: %v", unusable))
	if err != nil {
		return c, fmt.Errorf("neither KVM nor QEMU is usable: %w", errors.Join(unusable, err))
	}
	return c, nil
}

// Usable says why the built-in VMM can't run guests on KVM here; nil when it can.
func (w Wish) Usable() error {
	if !arch.Supported {
		return arch.ErrUnsupported
	}
	return kvm.Probe(w.device(), arch.Required...)
}

func (w Wish) qemu(reason string) (Choice, error) {
	// Whether it is new enough shows when it is started; asking it first would take as long as starting it.
	b, err := qemu.Locate(runtime.GOARCH, w.QEMU)
	if err != nil {
		return Choice{}, err
	}
	return Choice{Kind: QEMU, Reason: reason, QEMU: b, Accelerated: kvm.Probe(w.device()) == nil}, nil
}

// OpenKVM opens KVM's device, as Choose found it usable.
func (w Wish) OpenKVM() (*os.File, error) {
	return os.OpenFile(w.device(), os.O_RDWR, 0)
}
