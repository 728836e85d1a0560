// Package qemu finds, starts, steers and ends one qemu-system-* process: the machine of hosts without usable KVM.
//
// QEMU gets its kernel, its console, its QMP line and the front ends of its vhost-user devices as open files, and is
// shut in with its own seccomp filter. It belongs to the process that started it and dies with it. Once a guest has
// broken out of its machine QEMU is as hostile as the guest: what it says is bounded and parsed as such.
//
// The package knows QEMU's side alone. The vhost-user back ends and what is on the console are its caller's.
package qemu
