// Package kvm wraps the Linux KVM API, one method per ioctl, with no policy of its own.
//
// The machine and the arch and vcpu packages are its callers. It never decides what a guest looks like, never
// logs, and never keeps a reference to guest memory beyond the call: what is registered with SetMemory must be
// kept mapped by the caller until the VM is closed. The comments "KVM API 4.x" name sections of the kernel's
// Documentation/virt/kvm/api.rst.
package kvm

import (
	"fmt"
	"os"
)

// apiVersion is the only one there has been since Linux 2.6.22; the API grows by capabilities (KVM API 4.1).
const apiVersion = 12

// System is an open /dev/kvm. It may be used until Close; VMs made from it outlive it.
type System struct {
	file *os.File
	fd   int
}

// New takes over f, which must be an open /dev/kvm, perhaps donated by another process. On error f stays the
// caller's.
func New(f *os.File) (*System, error) {
	fd := int(f.Fd())
	v, err := ioctl(fd, getAPIVersion, 0)
	if err != nil {
		return nil, fmt.Errorf("ask %s for the KVM API version: %w (is it /dev/kvm?)", f.Name(), err)
	}
	if v != apiVersion {
		return nil, fmt.Errorf("%s speaks KVM API version %d; husk needs %d", f.Name(), v, apiVersion)
	}
	return &System{file: f, fd: fd}, nil
}

// Close closes /dev/kvm.
func (s *System) Close() error { return s.file.Close() }

// Check returns the value of a capability: 0 when the host lacks it, otherwise 1 or what the capability defines
// (KVM API 4.4).
func (s *System) Check(c Capability) (int, error) {
	n, err := ioctl(s.fd, checkExtension, uintptr(c))
	if err != nil {
		return 0, fmt.Errorf("check %s: %w", c, err)
	}
	return int(n), nil
}

// Require returns an error that names every capability of the list that the host lacks.
func (s *System) Require(caps ...Capability) error {
	var missing []Capability
	for _, c := range caps {
		n, err := s.Check(c)
		if err != nil {
			return err
		}
		if n <= 0 {
			missing = append(missing, c)
		}
	}
	if len(missing) != 0 {
		return fmt.Errorf("this host's KVM lacks %s; it needs a newer kernel (Linux 5.4 has all) or a full KVM module", list(missing))
	}
	return nil
}

// MaxVCPUs is how many vCPUs one VM may have here.
func (s *System) MaxVCPUs() (int, error) {
	// KVM API 4.7: without MAX_VCPUS, NR_VCPUS is the limit; without either it is 4.
	for _, c := range []Capability{CapMaxVCPUs, CapNrVCPUs} {
		n, err := s.Check(c)
		if err != nil {
			return 0, err
		}
		if n > 0 {
			return n, nil
		}
	}
	return 4, nil
}

// CreateVM makes an empty VM of the given machine type, 0 being the default (KVM API 4.2).
func (s *System) CreateVM(machine uintptr) (*VM, error) {
	size, err := ioctl(s.fd, getVCPUMmapSize, 0) // KVM API 4.5
	if err != nil {
		return nil, fmt.Errorf("ask for the size of a vCPU's run area: %w", err)
	}
	if size < minRunSize {
		return nil, fmt.Errorf("a vCPU's run area of %d bytes is too small", size)
	}
	fd, err := ioctl(s.fd, createVM, machine)
	if err != nil {
		return nil, fmt.Errorf("create VM: %w", err)
	}
	return &VM{fd: int(fd), runSize: int(size)}, nil
}
