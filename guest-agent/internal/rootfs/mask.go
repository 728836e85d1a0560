package rootfs

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Mask hides paths: a directory behind an empty read-only one, anything else behind /dev/null. What does not
// exist needs no hiding.
func (r *Root) Mask(paths []string) error {
	empty := -1
	defer func() {
		if empty >= 0 {
			unix.Close(empty)
		}
	}()
	for _, p := range paths {
		dst, err := r.open(p, unix.O_PATH)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("mask %s: %w", p, err)
		}
		var tree int
		dir, err := isDir(dst)
		switch {
		case err != nil:
		case !dir:
			tree, err = r.null()
		case empty < 0:
			tree, err = emptyDirectory()
		default:
			tree, err = unix.OpenTree(empty, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
		}
		if err == nil {
			err = attach(tree, dst)
			if err == nil && dir && empty < 0 {
				empty = tree
			} else {
				unix.Close(tree)
			}
		}
		unix.Close(dst)
		if err != nil {
			return fmt.Errorf("mask %s: %w", p, err)
		}
	}
	return nil
}

// null is the container's own null device, whose owner and mode can be changed through whatever it masks. Where the container
// has put something else there (CVE-2025-31133), it is the guest's.
func (r *Root) null() (int, error) {
	own, err := r.open("/dev/null", unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return guestNull()
	}
	defer unix.Close(own)
	var st unix.Stat_t
	if err := unix.Fstat(own, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) {
		return guestNull()
	}
	return unix.OpenTree(own, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
}

// guestNull is a view of the guest's null device through which its owner and mode can't be changed.
func guestNull() (int, error) {
	tree, err := OpenTree("/dev/null", false)
	if err != nil {
		return -1, err
	}
	if err := setReadOnly(tree); err != nil {
		unix.Close(tree)
		return -1, err
	}
	return tree, nil
}

// emptyDirectory is a file system that all masked directories share; it can hold nothing.
func emptyDirectory() (int, error) {
	tree, err := fresh("tmpfs", "tmpfs", options{params: []param{{key: "nr_blocks", value: "1"}, {key: "nr_inodes", value: "1"}}})
	if err != nil {
		return -1, err
	}
	if err := setReadOnly(tree); err != nil {
		unix.Close(tree)
		return -1, err
	}
	return tree, nil
}

// ReadOnly covers each path with a read-only view of itself. What does not exist is left out.
func (r *Root) ReadOnly(paths []string) error {
	for _, p := range paths {
		dst, err := r.open(p, unix.O_PATH)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("make %s read-only: %w", p, err)
		}
		err = coverReadOnly(dst)
		unix.Close(dst)
		if err != nil {
			return fmt.Errorf("make %s read-only: %w", p, err)
		}
	}
	return nil
}

func coverReadOnly(dst int) error {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH | unix.AT_RECURSIVE)
	tree, err := unix.OpenTree(dst, "", flags)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	if err := setReadOnly(tree); err != nil {
		return err
	}
	return attach(tree, dst)
}
