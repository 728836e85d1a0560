// Command host is the KVM test host: it boots a virtual machine in which KVM works, runs one command in it and
// exits with the command's exit status. The end-to-end tests run in it, on machines with hardware virtualization
// and on those without: there QEMU's software emulation (TCG) emulates AMD-V, and the guest has its own /dev/kvm.
//
//	CGO_ENABLED=0 go build -o bin/host ./test/host
//	bin/host -timeout 20m -- /path/e2e.test -test.v
//	bin/host -init systemd -cgroup hybrid -- systemctl status
//	bin/host -interactive -- bash
//
// "go run ./test/host" works too, but go run turns every nonzero status into 1.
//
// # What the command finds
//
// The machine's own / with all its binaries and checkouts, in the same places, and the caller's working directory.
// It is read-only below an overlay: whatever the command writes is in the guest's memory and gone afterwards. A file
// that changes on the machine meanwhile may be seen or not. What shall last goes to a share:
//
//	-share /home/me/out:out:/mnt/out:rw
//
// Its own are /dev, /proc, /sys, /run, /dev/shm, and, since an overlay can't have its upper layer on an overlay, the
// directories of container runtimes: /var/lib/containerd, containers, docker, kubelet and husk are empty tmpfs mounts.
// /tmp is the machine's, because test binaries are often built there; TMPDIR is /run/tmp, a tmpfs.
// Things in the machine's /run can't be seen.
//
// Modules for KVM, vhost-vsock, tap devices, traffic control, file systems and netfilter are loaded, lo is up, all
// mounts are shared. There is no other network. The environment is PATH, HOME, LANG and TERM of the caller, TMPDIR, and
// what -env gives. stdin is /dev/null unless -interactive is given.
//
// With -init none the command is a child of a small PID 1, in the root cgroup of each hierarchy. With -init systemd it
// is the service husk-host.service of the machine's systemd, with a system bus; nothing that the machine has enabled is
// started. Either way the host ends with the command: what it leaves running is killed.
//
// Cgroup layouts are those of systemd: v2; v1 with each controller mounted; hybrid, which is v1 with an empty v2
// hierarchy at /sys/fs/cgroup/unified. With -append cgroup_no_v1=freezer a controller's directory is there but no cgroup.
//
// # How it ends
//
// The command's status, or 128 and its number if a signal killed it. 127 if it was not found and 126 if it could not be
// executed. 124 when -timeout has passed, 125 if the host did not come up or died; both show the end of the
// console. The status travels in a message of its own, behind all output; there is no default for it, so a guest that
// dies is never a success. 128 and its number if a signal ended this program. QEMU is gone in every case, even
// if this program is killed with SIGKILL.
//
// # What it needs
//
// Debian's linux-image-amd64, qemu-system-x86, and for -init systemd also systemd and dbus. Root, to read all of /.
package main
