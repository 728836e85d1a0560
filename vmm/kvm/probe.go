package kvm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Probe says whether path is a KVM that husk can use: nil, or an error that names the reason and the remedy.
// It is what decides between the built-in VMM and qemu.
func Probe(path string, required ...Capability) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: load the module kvm_intel or kvm_amd, and enable virtualization in the firmware", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: run as root or as a member of the group that owns it", err)
	case err != nil:
		return err
	}
	s, err := New(f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	defer func() { _ = s.Close() }()
	if err := s.Require(required...); err != nil {
		return err
	}
	return CheckHardware()
}

// CheckHardware refuses a host whose KVM has no hardware virtualization behind it. It opens a path: before any jail.
func CheckHardware() error { return checkHardware("/proc/cpuinfo") }
