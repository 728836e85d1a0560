// Package mounts prepares host paths for the guest: it mounts a container's root in the shim's private mount
// namespace and opens what is to be shared. What it opens, it opens with O_PATH; only the VMM walks below.
package mounts

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/shim/internal/bundle"
)

// Root is a container's root file system, ready to be given to a VM: a directory or a disk.
type Root struct {
	// File is the directory, O_PATH, or the block device or image.
	File *os.File
	// Disk is nil for a directory.
	Disk *Disk

	target string // where it is mounted; empty when nothing was
}

// Disk is a root that the guest mounts itself.
type Disk struct {
	FSType   string
	Options  []string
	ReadOnly bool
	Sectors  uint64 // of 512 bytes
	// Devices are the host's that it stands for: itself, or the one that the image is on, and what that is a part of.
	Devices []bundle.Device
}

// diskTypes are the file systems that the guest's kernel mounts from a disk.
var diskTypes = []string{"ext4", "erofs", "xfs"}

// OpenRoot makes the root that the mounts describe. A single mount of a disk's file system goes to the guest
// as it is; all others are mounted at target, a directory that it creates. Without mounts the root is at path.
func OpenRoot(mounts []*types.Mount, target, path string) (*Root, error) {
	if len(mounts) == 0 {
		f, err := openPath(path)
		if err != nil {
			return nil, fmt.Errorf("open the root file system: %w", err)
		}
		return &Root{File: f}, nil
	}
	for _, m := range mounts {
		if err := prepared(m); err != nil {
			return nil, fmt.Errorf("mount the root file system (%s): %w", describe(m), err)
		}
	}
	if OnDisk(mounts) {
		return openDisk(mounts[0])
	}
	if err := os.MkdirAll(target, 0o711); err != nil {
		return nil, fmt.Errorf("create the root's mount point: %w", err)
	}
	for i, m := range mounts {
		host := mount.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options}
		if err := host.Mount(target); err != nil {
			err = fmt.Errorf("mount the root file system (%s): %w", describe(m), explain(m, err))
			if i > 0 {
				err = errors.Join(err, unmount(target))
			}
			return nil, err
		}
	}
	f, err := openPath(target)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the root file system: %w", err), unmount(target))
	}
	return &Root{File: f, target: target}, nil
}

// OnDisk says whether the mounts make a root that is a disk.
func OnDisk(mounts []*types.Mount) bool {
	return len(mounts) == 1 && slices.Contains(diskTypes, mounts[0].Type)
}

// prepared fails for a mount that is not for a kernel: containerd's mount manager makes such ones into others, and leaves
// what it can't.
func prepared(m *types.Mount) error {
	own := func(option string) bool { return strings.HasPrefix(option, "X-containerd.") }
	if strings.Contains(m.Type, "/") || slices.ContainsFunc(m.Options, own) {
		return errors.New("containerd has not prepared it: its mount manager does (containerd 2.2 and newer), " +
			"for a snapshotter whose root_path is below containerd's root directory, as it is by default")
	}
	return nil
}

// Close ends the root's use on the host. The VM must be gone, or have given its share up.
func (r *Root) Close() error {
	err := r.File.Close()
	if r.target != "" {
		err = errors.Join(err, unmount(r.target))
	}
	return err
}

// unmount takes everything off target, lazily: a process that still looks below must not keep the rest here.
func unmount(target string) error {
	for {
		err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil || errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT): // nothing is mounted there any more
			return nil
		default:
			return fmt.Errorf("unmount %s: %w", target, err)
		}
	}
}

func openDisk(m *types.Mount) (*Root, error) {
	disk := &Disk{FSType: m.Type, ReadOnly: m.Type == "erofs"}
	for _, option := range m.Options {
		switch option {
		case "loop": // the file is the disk
		case "ro":
			disk.ReadOnly = true
			disk.Options = append(disk.Options, option)
		default:
			if strings.HasPrefix(option, "device=") {
				return nil, fmt.Errorf("mount the root file system (%s): option %s is not supported on a disk given to a VM",
					describe(m), option)
			}
			disk.Options = append(disk.Options, option)
		}
	}
	how := os.O_RDWR
	if disk.ReadOnly {
		how = os.O_RDONLY
	}
	f, err := os.OpenFile(m.Source, how, 0)
	if err != nil {
		return nil, fmt.Errorf("open the root's disk (%s): %w", describe(m), err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() && info.Mode().Type()&^os.ModeDevice != 0 {
		err = errors.New("neither a block device nor a regular file")
	}
	if err == nil {
		disk.Devices = devicesOf(info.Sys().(*syscall.Stat_t))
		var size int64
		size, err = f.Seek(0, io.SeekEnd)
		disk.Sectors = uint64(size) / 512
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open the root's disk %s: %w", m.Source, err)
	}
	return &Root{File: f, Disk: disk}, nil
}

// devicesOf are the numbers by which the host's limits of I/O mean a disk.
func devicesOf(s *syscall.Stat_t) []bundle.Device {
	number := s.Dev
	if s.Mode&unix.S_IFMT == unix.S_IFBLK {
		number = s.Rdev
	}
	list := []bundle.Device{{Major: int64(unix.Major(uint64(number))), Minor: int64(unix.Minor(uint64(number)))}}
	// A partition is not limited by itself.
	sys := fmt.Sprintf("/sys/dev/block/%d:%d", list[0].Major, list[0].Minor)
	if _, err := os.Stat(sys + "/partition"); err != nil {
		return list
	}
	text, _ := os.ReadFile(sys + "/../dev")
	var whole bundle.Device
	if _, err := fmt.Sscanf(string(text), "%d:%d", &whole.Major, &whole.Minor); err == nil {
		list = append(list, whole)
	}
	return list
}

// describe names a mount briefly: overlay options may be kilobytes.
func describe(m *types.Mount) string {
	options := strings.Join(m.Options, ",")
	if len(options) > 200 {
		options = options[:200] + "…"
	}
	return fmt.Sprintf("type %s, source %s, options %q", m.Type, m.Source, options)
}

// explain adds the remedy where errno alone leaves one guessing.
func explain(m *types.Mount, err error) error {
	if errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("%w: this host's kernel has no file system %q: load its module (modprobe %s), or choose another snapshotter",
			err, m.Type, m.Type)
	}
	return err
}

func openPath(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// OpenSource opens the source of a bind mount, whatever kind of file it is: with all that is mounted below it, or, not
// recursive, without.
func OpenSource(path string, recursive bool) (*os.File, error) {
	f, err := openPath(path)
	if err == nil && !recursive {
		defer f.Close()
		f, err = alone(f)
	}
	if err != nil {
		return nil, fmt.Errorf("open the source of a bind mount: %w", err)
	}
	return f, nil
}

// alone is f in a mount of its own, with nothing mounted below; it goes with the last file that is open in it.
func alone(f *os.File) (*os.File, error) {
	fd, err := unix.OpenTree(int(f.Fd()), "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: f.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
