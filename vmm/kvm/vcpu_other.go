//go:build !amd64

package kvm

// Resumed has nothing to tell where the guest has no kvmclock.
func (c *VCPU) Resumed() error { return nil }

// Describe knows no registers here.
func (c *VCPU) Describe() string { return "" }
