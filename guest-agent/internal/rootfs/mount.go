package rootfs

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Mount makes one mount of the specification. A missing destination is created: a directory, or a file for the
// bind of a file.
func (r *Root) Mount(m specs.Mount) error {
	if err := r.mount(m); err != nil {
		return fmt.Errorf("mount %s (type %q, source %q): %w", m.Destination, m.Type, m.Source, err)
	}
	return nil
}

func (r *Root) mount(m specs.Mount) error {
	if len(m.UIDMappings) > 0 || len(m.GIDMappings) > 0 {
		return errors.New("id-mapped mounts are not supported")
	}
	if path.Clean("/"+m.Destination) == "/" {
		return errors.New("the destination must not be the root")
	}
	o, err := parseOptions(m.Type, m.Options)
	if err != nil {
		return err
	}
	if o.bind && path.Clean(m.Destination) == "/dev" {
		r.devBound = true
	}
	tree, err := r.detached(m, &o)
	if err != nil {
		return err
	}
	dst, err := r.destination(m.Destination, tree)
	if err != nil {
		unix.Close(tree)
		return fmt.Errorf("destination: %w", err)
	}
	defer unix.Close(dst)
	if err := attach(tree, dst); err != nil {
		unix.Close(tree)
		return err
	}
	return r.finish(tree, o)
}

// detached makes the mount without attaching it anywhere.
func (r *Root) detached(m specs.Mount, o *options) (int, error) {
	switch {
	case o.bind:
		return bind(m.Source, *o)
	case m.Type == "cgroup" || m.Type == "cgroup2":
		o.params = nil // v1's controllers are no option of v2
		if !r.cgroupNS && r.cgroup != "" {
			return bind(r.cgroup, *o)
		}
		return fresh("cgroup2", "cgroup", *o)
	default:
		return fresh(m.Type, m.Source, *o)
	}
}

func bind(source string, o options) (int, error) {
	if !filepath.IsAbs(source) {
		return -1, fmt.Errorf("source %q is not absolute", source)
	}
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if o.recursive {
		flags |= unix.AT_RECURSIVE
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, flags)
	if err != nil {
		return -1, fmt.Errorf("stat %s: %w", source, err)
	}
	return tree, nil
}

// fresh mounts a file system of its own.
func fresh(fstype, source string, o options) (int, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("file system type %q: %w", fstype, err)
	}
	defer unix.Close(fs)
	if source != "" {
		if err := unix.FsconfigSetString(fs, "source", source); err != nil {
			return -1, fsError(fs, "source", err)
		}
	}
	for _, p := range o.params {
		if p.value == "" {
			err = unix.FsconfigSetFlag(fs, p.key)
		} else {
			err = unix.FsconfigSetString(fs, p.key, p.value)
		}
		if err != nil {
			return -1, fsError(fs, "option "+p.key, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fsError(fs, "create", err)
	}
	tree, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, fsError(fs, "mount", err)
	}
	return tree, nil
}

// fsError adds what the kernel wrote to the file system context, which names the very option.
func fsError(fs int, what string, err error) error {
	buf := make([]byte, 512)
	n, rerr := unix.Read(fs, buf)
	if rerr != nil || n <= 0 {
		return fmt.Errorf("%s: %w", what, err)
	}
	text := strings.TrimPrefix(strings.TrimSpace(string(buf[:n])), "e ")
	return fmt.Errorf("%s: %w (%s)", what, err, text)
}

// destination opens or creates what the mount will cover: a directory for a directory, a file for all else.
func (r *Root) destination(name string, tree int) (int, error) {
	dir, err := isDir(tree)
	if err != nil {
		return -1, err
	}
	if !dir {
		return r.createFile(name, 0o755)
	}
	return r.MkdirAll(name, 0o755)
}

func attach(tree, dst int) error {
	err := unix.MoveMount(tree, "", dst, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	return nil
}

// finish applies attributes and propagation to the attached mount and takes the descriptor over.
func (r *Root) finish(tree int, o options) error {
	keep := false
	defer func() {
		if !keep {
			unix.Close(tree)
		}
	}()
	if !o.bind && o.set&unix.MOUNT_ATTR_RDONLY != 0 {
		o.set &^= unix.MOUNT_ATTR_RDONLY
		r.frozenLater = append(r.frozenLater, tree)
		keep = true
	}
	if o.set|o.clear != 0 {
		a := unix.MountAttr{Attr_set: o.set, Attr_clr: o.clear}
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &a); err != nil {
			return fmt.Errorf("set attributes: %w", err)
		}
	}
	if o.rset|o.rclear != 0 {
		a := unix.MountAttr{Attr_set: o.rset, Attr_clr: o.rclear}
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &a); err != nil {
			return fmt.Errorf("set attributes recursively: %w", err)
		}
	}
	for _, p := range o.propagation {
		flags := uint(unix.AT_EMPTY_PATH)
		if p.recursive {
			flags |= unix.AT_RECURSIVE
		}
		if err := unix.MountSetattr(tree, "", flags, &unix.MountAttr{Propagation: p.kind}); err != nil {
			return fmt.Errorf("set propagation: %w", err)
		}
	}
	return nil
}
