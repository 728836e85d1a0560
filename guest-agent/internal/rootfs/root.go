// Package rootfs builds the file system tree that a container sees and makes it the calling process's root.
//
// It is called by the stage process that becomes the container's init, in a mount namespace of its own. All of
// it happens before pivot_root, while the guest's own tree is still there, and every path of the container is
// resolved with RESOLVE_IN_ROOT: whatever symbolic links an image holds, nothing is mounted or created outside.
// Mounts are made with the descriptor-based mount API, so a destination can't be swapped between check and use.
package rootfs

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Root is a container's root under construction. Its methods are called in the order Mount…, Devices, ReadOnly and
// Mask, Pivot, Freeze; only Freeze may follow Pivot, and nothing Freeze.
type Root struct {
	fd       int
	path     string // in the guest
	cgroup   string // directory of the container's cgroup in the guest
	cgroupNS bool
	userNS   bool
	// Mounts that become read-only only at the end, since later mounts may need directories in them.
	frozenLater []int
	devBound    bool // /dev is the guest's, and stays as it is
}

// Config is what Open needs to know.
type Config struct {
	Path        string // of the root file system, in the guest
	Propagation string // of the container's mounts: OCI's rootfsPropagation
	// Cgroup is bound for mounts of type cgroup when the container has no cgroup namespace of its own.
	Cgroup          string
	CgroupNamespace bool
	UserNamespace   bool
	// Tree is the root as OpenTree has opened it, or -1 to open Path here.
	Tree int
}

// Open detaches this mount namespace from the guest's and puts the root on a mount of its own.
func Open(c Config) (*Root, error) {
	flag := uintptr(unix.MS_SLAVE | unix.MS_REC)
	if c.Propagation == "private" || c.Propagation == "rprivate" {
		flag = unix.MS_PRIVATE | unix.MS_REC
	}
	if err := unix.Mount("", "/", "", flag, ""); err != nil {
		return nil, fmt.Errorf("set propagation of the guest's mounts: %w", err)
	}
	// In the stage's own mounts, any directory serves to put an open tree on.
	path, tree := "/tmp", c.Tree
	if tree < 0 {
		var err error
		if path, err = filepath.EvalSymlinks(c.Path); err != nil {
			return nil, fmt.Errorf("root.path %s: %w", c.Path, err)
		}
		if tree, err = OpenTree(path, true); err != nil {
			return nil, fmt.Errorf("root.path: %w", err)
		}
	}
	if dir, err := isDir(tree); err != nil || !dir {
		unix.Close(tree)
		return nil, fmt.Errorf("root.path: %s is not a directory", path)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		unix.Close(tree)
		return nil, fmt.Errorf("mount root %s: %w", path, err)
	}
	return &Root{fd: tree, path: path, cgroup: c.Cgroup, cgroupNS: c.CgroupNamespace, userNS: c.UserNamespace}, nil
}

// Pivot makes the root the process's root and lets go of the guest's tree. The working directory is "/" then.
func (r *Root) Pivot(propagation string) error {
	old, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the guest's root: %w", err)
	}
	defer unix.Close(old)
	if err := unix.Fchdir(r.fd); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	// The old root ends up on top of the new one, where it is reached through its descriptor and detached.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Fchdir(old); err != nil {
		return fmt.Errorf("enter the guest's root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the guest's root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	if propagation == "" {
		return nil
	}
	p, ok := propagations[propagation]
	if !ok {
		return fmt.Errorf("unknown rootfsPropagation %q", propagation)
	}
	flags := uintptr(p.kind)
	if p.recursive {
		flags |= unix.MS_REC
	}
	if err := unix.Mount("", "/", "", flags, ""); err != nil {
		return fmt.Errorf("set root propagation %s: %w", propagation, err)
	}
	return nil
}

// Freeze makes read-only what was to be so, the root among it if asked, and ends the construction.
func (r *Root) Freeze(readonly bool) error {
	for _, fd := range r.frozenLater {
		if err := setReadOnly(fd); err != nil {
			return fmt.Errorf("make a mount read-only: %w", err)
		}
		unix.Close(fd)
	}
	if readonly {
		if err := setReadOnly(r.fd); err != nil {
			return fmt.Errorf("make root read-only: %w", err)
		}
	}
	return unix.Close(r.fd)
}

func setReadOnly(fd int) error {
	return unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
}
