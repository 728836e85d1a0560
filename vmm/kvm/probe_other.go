//go:build !amd64

package kvm

// checkHardware has nothing to look at here: a KVM that opens is one that works.
func checkHardware(string) error { return nil }
