package mounts

import (
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/containerd/api/types"
	"golang.org/x/sys/unix"
)

// Engine is the mount namespace that an engine's paths are of. What is mounted there arrives in the shim's by itself
// where the host's mounts are shared, as systemd has them. Where they are not, it has to be brought.
type Engine struct {
	Namespace *os.File // nil is the shim's own
}

// Brought are mounts of the engine's namespace that are in the shim's, too.
type Brought struct {
	targets []string
}

// Bring makes the file systems that the paths are on visible at the same paths here. A path that is not there is not
// its affair.
func (e Engine) Bring(paths []string) (*Brought, error) {
	b := new(Brought)
	if e.Namespace == nil || len(paths) == 0 {
		return b, nil
	}
	missing, err := e.missing(paths)
	for _, tree := range missing {
		if err == nil {
			err = b.attach(tree)
		}
		tree.Close()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bring mounts from the engine's namespace: %w", err), b.Close())
	}
	return b, nil
}

// attach puts a tree where it is in the engine's namespace.
func (b *Brought) attach(tree *os.File) error {
	err := unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, tree.Name(), unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		return &os.PathError{Op: "move_mount", Path: tree.Name(), Err: err}
	}
	b.targets = append(b.targets, tree.Name())
	return nil
}

// Close takes them away again.
func (b *Brought) Close() error {
	var errs []error
	for _, target := range slices.Backward(b.targets) {
		errs = append(errs, unmount(target))
	}
	b.targets = nil
	return errors.Join(errs...)
}

// missing opens copies of the mounts that are under the paths there and not here, each with the name of its mount
// point. The caller closes them, also when there is an error.
func (e Engine) missing(paths []string) (trees []*os.File, err error) {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends in the foreign namespace
		done <- func() error {
			here, err := openPath("/")
			if err != nil {
				return err
			}
			defer here.Close()
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fmt.Errorf("unshare: %w", err)
			}
			if err := unix.Setns(int(e.Namespace.Fd()), unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("setns: %w", err)
			}
			var seen []string
			for _, p := range paths {
				point := mountPoint(p)
				if point == "" || slices.Contains(seen, point) || sameHere(here, point) {
					continue
				}
				seen = append(seen, point)
				fd, err := unix.OpenTree(unix.AT_FDCWD, point, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
				if err != nil {
					return &os.PathError{Op: "open_tree", Path: point, Err: err}
				}
				trees = append(trees, os.NewFile(uintptr(fd), point))
			}
			return nil
		}()
	}()
	err = <-done
	return trees, err
}

// mountPoint is where the file system begins that p is on; empty if there is no p, or the kernel does not tell.
func mountPoint(p string) string {
	f, err := openPath(p)
	if err != nil {
		return ""
	}
	defer f.Close()
	point, err := os.Readlink(fmt.Sprintf("/proc/thread-self/fd/%d", f.Fd()))
	id := mountID(point)
	if err != nil || id == 0 {
		return ""
	}
	for point != "/" && mountID(path.Dir(point)) == id {
		point = path.Dir(point)
	}
	return point
}

func mountID(p string) uint64 {
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, p, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &st) != nil || st.Mask&unix.STATX_MNT_ID == 0 {
		return 0
	}
	return st.Mnt_id
}

// sameHere says whether point is the same file below root, which is another namespace's, as it is in the thread's.
func sameHere(root *os.File, point string) bool {
	var there, here unix.Stat_t
	if unix.Lstat(point, &there) != nil {
		return true
	}
	err := unix.Fstatat(int(root.Fd()), strings.TrimPrefix(point, "/"), &here, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH)
	return err == nil && there.Dev == here.Dev && there.Ino == here.Ino
}

// Sources are the paths that mounting a root needs.
func Sources(mounts []*types.Mount) (paths []string) {
	for _, m := range mounts {
		if path.IsAbs(m.Source) {
			paths = append(paths, m.Source)
		}
		for _, option := range m.Options {
			name, value, _ := strings.Cut(option, "=")
			switch name {
			case "upperdir", "workdir":
				paths = append(paths, value)
			case "lowerdir":
				paths = append(paths, strings.Split(value, ":")...)
			}
		}
	}
	return slices.DeleteFunc(paths, func(p string) bool { return !path.IsAbs(p) })
}
