package boot

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Shares is where the file systems of the host appear, by the names of the shares.
const Shares = "/run/husk/shares"

// sharesTag is the virtio-fs device's.
const sharesTag = "husk"

type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

const secure = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV

// mounts are made in this order, below the new root.
var mounts = []mount{
	{"proc", "/proc", "proc", secure, ""},
	// As on a host: what a container registers would otherwise go with its own mount.
	{"binfmt_misc", "/proc/sys/fs/binfmt_misc", "binfmt_misc", secure, ""},
	{"sysfs", "/sys", "sysfs", secure, ""},
	{"cgroup2", "/sys/fs/cgroup", "cgroup2", secure, ""},
	{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=755"},
	{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=620,gid=5,ptmxmode=666"},
	{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"mqueue", "/dev/mqueue", "mqueue", secure, ""},
	{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
}

// newRoot is a directory of the initramfs.
const newRoot = "/root"

// Root makes a tmpfs the root, with all the mounts on it. The initramfs itself can't serve as one: pivot_root,
// which every container's root needs, refuses to leave it. It stays below, read-only; the agent's executable
// there is reached through /proc/self/exe.
func Root() error {
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return fmt.Errorf("make new root: %w", err)
	}
	if err := unix.Mount("tmpfs", newRoot, "tmpfs", unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount new root: %w", err)
	}
	for _, m := range mounts {
		target := newRoot + m.target
		if err := os.MkdirAll(target, 0o755); err != nil {
			return fmt.Errorf("make %s: %w", m.target, err)
		}
		if err := unix.Mount(m.source, target, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := errors.Join(unix.Mkdir(newRoot+"/tmp", 0), unix.Chmod(newRoot+"/tmp", 0o1777)); err != nil {
		return fmt.Errorf("make /tmp: %w", err)
	}
	// Nothing may write to the agent's executable.
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make the initramfs read-only: %w", err)
	}
	if err := unix.Chdir(newRoot); err != nil {
		return fmt.Errorf("enter new root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move new root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	return nil
}

// ErrNoShares means that the VM was started without shared file systems.
var ErrNoShares = errors.New("the VM has no virtio-fs device")

// MountShares mounts the host's shares.
func MountShares() error {
	if err := os.MkdirAll(Shares, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", Shares, err)
	}
	// Not nosuid: roots are among the shares, and containers inherit it.
	err := unix.Mount(sharesTag, Shares, "virtiofs", unix.MS_NODEV, "")
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) {
		return ErrNoShares
	}
	if err != nil {
		return fmt.Errorf("mount the host's shares: %w", err)
	}
	return nil
}
