package qemu

import "strings"

// remedies turn what QEMU says when it cannot start into what to do about it. The first that fits is given.
var remedies = []struct {
	says   []string // any of these
	remedy string
}{
	{
		[]string{"could not load PC BIOS", "Unable to find", "could not find firmware", "could not load bootloader", "Could not find LPAR firmware"},
		"QEMU's firmware is missing: install the package qemu-system-data (Debian, Ubuntu) or qemu-common (Fedora)",
	},
	{
		[]string{"unsupported machine type", "is not a valid device model name", "not a valid object type"},
		"this QEMU is cut down: install the distribution's full one",
	},
	{
		[]string{"Cannot allocate memory", "failed to resize memfd", "cannot set up guest memory", "Invalid RAM size", "ram size too large"},
		"the host cannot give the guest so much memory: give it less",
	},
	{
		[]string{"Invalid SMP CPUs", "exceeds max CPUs", "Number of SMP CPUs requested"},
		"the machine does not take so many vCPUs: give it fewer",
	},
	{
		[]string{"Could not access KVM", "failed to initialize kvm", "failed to initialize KVM"},
		"KVM can't be used by the user that QEMU runs as: let that user open /dev/kvm, or use emulation",
	},
	{
		[]string{"seccomp support is disabled", "sandboxing is not supported", "failed to install seccomp"},
		"QEMU cannot confine itself: use one that is built with libseccomp, on a kernel with seccomp filters",
	},
	{
		[]string{"could not open kernel file", "could not load initrd", "could not load kernel", "error loading", "The image is not ELF", "Error loading uncompressed kernel"},
		"QEMU cannot use the kernel or initramfs: it must be one for this architecture",
	},
	{
		[]string{"vhost_user", "vhost-user", "vhost initialization failed", "Failed to initialize vhost"},
		"a vhost-user back end did not answer: see its log",
	},
}

// remedy is for people; empty when nothing better is known than QEMU's own words.
func remedy(stderr string) string {
	for _, r := range remedies {
		for _, s := range r.says {
			if strings.Contains(stderr, s) {
				return r.remedy
			}
		}
	}
	return ""
}
