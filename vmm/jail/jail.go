// Package jail takes from the VMM's process what it needs no more once its machine is built: every path, every
// capability beyond those of the file back end, and the way to gain others.
//
// It is called by husk-vmm between the building of the machine and the first instruction of the guest, in a
// process that was started with mount, ipc, uts and net namespaces of its own.
package jail

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// kept are the capabilities the file back end acts with for any user of a share.
const kept = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER |
	1<<unix.CAP_FSETID | 1<<unix.CAP_SETFCAP

// Enter makes an empty directory the root of the process and workdir its working directory, and drops
// capabilities, in all threads. Descriptors that are open stay usable. workdir may be nil.
func Enter(workdir *os.File) error {
	if err := ownMountNamespace(); err != nil {
		return fmt.Errorf("jail: %w", err)
	}
	if err := emptyRoot(); err != nil {
		return fmt.Errorf("jail: %w", err)
	}
	if workdir != nil {
		if err := unix.Fchdir(int(workdir.Fd())); err != nil {
			return fmt.Errorf("jail: change to %s: %w", workdir.Name(), err)
		}
	}
	if err := dropPrivileges(); err != nil {
		return fmt.Errorf("jail: %w", err)
	}
	return nil
}

// ownMountNamespace refuses to change the mounts of whoever started us.
func ownMountNamespace() error {
	ours, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", os.Getppid()))
	if err == nil && ours == theirs {
		return errors.New("the process has no mount namespace of its own")
	}
	return nil
}

func emptyRoot() error {
	// Any directory that is always there will do: it is covered, in this namespace alone.
	const cover = "/dev"
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"make mounts private", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }},
		{"mount an empty root", func() error {
			return unix.Mount("husk-vmm", cover, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=4k,nr_inodes=2,mode=0555")
		}},
		{"change to the empty root", func() error { return unix.Chdir(cover) }},
		{"pivot to the empty root", func() error { return unix.PivotRoot(".", ".") }},
		{"detach the old root", func() error { return unix.Unmount(".", unix.MNT_DETACH) }},
		{"change to the root", func() error { return unix.Chdir("/") }},
		{"make the root read-only", func() error {
			return unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		}},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

func dropPrivileges() error {
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("set no_new_privs: %w", errno)
	}
	return setCapabilities(kept)
}
