package rootfs

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Mount makes one mount of the specification. A missing destination is created: a directory, or a file for the
// bind of a file. tree is what to mount, opened beforehand by OpenSource, or -1.
func (r *Root) Mount(m specs.Mount, tree int) error {
	if err := r.mount(m, tree); err != nil {
		return mountError(m, err)
	}
	return nil
}

func mountError(m specs.Mount, err error) error {
	return fmt.Errorf("mount %s (type %q, source %q): %w", m.Destination, m.Type, m.Source, err)
}

func (r *Root) mount(m specs.Mount, tree int) error {
	if path.Clean("/"+m.Destination) == "/" {
		return errors.New("the destination must not be the root")
	}
	o, err := parseOptions(m.Type, m.Options)
	if err != nil {
		return err
	}
	if o.remount {
		return r.remount(m, o)
	}
	if o.bind && path.Clean(m.Destination) == "/dev" {
		r.devBound = true
	}
	if tree < 0 {
		if tree, err = r.detached(m, &o); err != nil {
			return err
		}
	}
	if o.copyUp {
		if err := r.copyUp(m.Destination, tree); err != nil {
			unix.Close(tree)
			return fmt.Errorf("tmpcopyup: %w", err)
		}
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
		return OpenTree(m.Source, o.recursive)
	case m.Type == "cgroup" || m.Type == "cgroup2":
		if m.Type == "cgroup" {
			o.params = nil // v1's controllers are no option of v2
		}
		if !r.cgroupNS && r.cgroup != "" {
			return OpenTree(r.cgroup, false)
		}
		return fresh("cgroup2", "cgroup", *o)
	case m.Type == "tmpfs":
		r.keepMode(m.Destination, o)
	}
	tree, err := fresh(m.Type, m.Source, *o)
	if m.Type == "sysfs" && errors.Is(err, unix.EPERM) && r.userNS {
		// A user namespace that does not own its network namespace has no sysfs of its own.
		return OpenTree("/sys", true)
	}
	return tree, err
}

// keepMode gives a tmpfs the mode of the directory it covers, unless another is asked for, as runc does.
func (r *Root) keepMode(name string, o *options) {
	if slices.ContainsFunc(o.params, func(p param) bool { return p.key == "mode" }) {
		return
	}
	dir, err := r.open(name, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return // it will be made
	}
	defer unix.Close(dir)
	var st unix.Stat_t
	if unix.Fstat(dir, &st) == nil {
		o.params = append(o.params, param{key: "mode", value: fmt.Sprintf("%o", st.Mode&0o7777)})
	}
}

// copyUp fills a new file system with what the directory holds that it will cover.
func (r *Root) copyUp(name string, tree int) error {
	src, err := r.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(src)
	return copyTree(src, tree)
}

// remount changes the mount at the destination: its attributes, and its file system when there are parameters.
func (r *Root) remount(m specs.Mount, o options) error {
	dst, err := r.open(m.Destination, unix.O_PATH)
	if err != nil {
		return fmt.Errorf("destination: %w", err)
	}
	if len(o.params) > 0 {
		if err := reconfigure(dst, o.params); err != nil {
			unix.Close(dst)
			return err
		}
	}
	return r.finish(dst, o)
}

func reconfigure(dst int, params []param) error {
	fs, err := unix.Fspick(dst, "", unix.FSPICK_CLOEXEC|unix.FSPICK_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("remount: %w", err)
	}
	defer unix.Close(fs)
	if err := setParams(fs, params); err != nil {
		return err
	}
	if err := unix.FsconfigReconfigure(fs); err != nil {
		return fsError(fs, "remount", err)
	}
	return nil
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
	if err := setParams(fs, o.params); err != nil {
		return -1, err
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

func setParams(fs int, params []param) error {
	for _, p := range params {
		var err error
		if p.flag {
			err = unix.FsconfigSetFlag(fs, p.key)
		} else {
			err = unix.FsconfigSetString(fs, p.key, p.value)
		}
		if err != nil {
			return fsError(fs, "option "+p.key, err)
		}
	}
	return nil
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
	if !o.bind && !o.remount && o.set&unix.MOUNT_ATTR_RDONLY != 0 {
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
