package rootfs

import (
	"errors"
	"fmt"
	"path"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// standardDevices are in every container, as the runtime-spec asks.
var standardDevices = []specs.LinuxDevice{
	{Path: "/dev/null", Type: "c", Major: 1, Minor: 3},
	{Path: "/dev/zero", Type: "c", Major: 1, Minor: 5},
	{Path: "/dev/full", Type: "c", Major: 1, Minor: 7},
	{Path: "/dev/random", Type: "c", Major: 1, Minor: 8},
	{Path: "/dev/urandom", Type: "c", Major: 1, Minor: 9},
	{Path: "/dev/tty", Type: "c", Major: 5, Minor: 0},
}

var standardLinks = []struct{ path, target string }{
	{"/dev/fd", "/proc/self/fd"},
	{"/dev/stdin", "/proc/self/fd/0"},
	{"/dev/stdout", "/proc/self/fd/1"},
	{"/dev/stderr", "/proc/self/fd/2"},
}

// Devices fills /dev with the standard devices and links and those of the specification, unless /dev is bound
// from outside. One that the specification describes itself is made as it says. The umask must be 0.
func (r *Root) Devices(extra []specs.LinuxDevice) error {
	if r.devBound {
		return nil
	}
	own := map[string]bool{"/dev/ptmx": true} // a link, below
	for _, d := range extra {
		name := path.Clean("/" + d.Path)
		if own[name] {
			continue
		}
		own[name] = true
		if err := r.device(d, true); err != nil {
			return fmt.Errorf("device %s: %w", d.Path, err)
		}
	}
	for _, d := range standardDevices {
		if own[d.Path] {
			continue
		}
		if err := r.device(d, false); err != nil {
			return fmt.Errorf("device %s: %w", d.Path, err)
		}
	}
	for _, l := range standardLinks {
		if err := r.link(l.path, l.target, false); err != nil {
			return fmt.Errorf("link %s: %w", l.path, err)
		}
	}
	// Always the container's own instance, whatever the image brought along.
	if err := r.link("/dev/ptmx", "pts/ptmx", true); err != nil {
		return fmt.Errorf("link /dev/ptmx: %w", err)
	}
	return nil
}

// device makes a node. What an image has in its place is an error if the node must be the one described.
func (r *Root) device(d specs.LinuxDevice, must bool) error {
	kind, err := deviceKind(d.Type)
	if err != nil {
		return err
	}
	mode := uint32(0o666)
	if d.FileMode != nil {
		mode = uint32(d.FileMode.Perm())
	}
	name := path.Clean("/" + d.Path)
	parent, err := r.MkdirAll(path.Dir(name), 0o755)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	dev := unix.Mkdev(uint32(d.Major), uint32(d.Minor))
	if kind == unix.S_IFIFO {
		dev = 0
	}
	err = unix.Mknodat(parent, path.Base(name), kind|mode, int(dev))
	switch {
	case errors.Is(err, unix.EEXIST):
		if !must {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Fstatat(parent, path.Base(name), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		return sameDevice(st, kind, dev)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EACCES), errors.Is(err, unix.EROFS):
		// A shared file system refuses device nodes, and so does any in a user namespace; the guest's own node
		// serves as well.
		return r.bindDevice(name, kind, dev)
	case err != nil:
		return err
	}
	if d.UID == nil && d.GID == nil {
		return nil
	}
	uid, gid := 0, 0
	if d.UID != nil {
		uid = int(*d.UID)
	}
	if d.GID != nil {
		gid = int(*d.GID)
	}
	return unix.Fchownat(parent, path.Base(name), uid, gid, unix.AT_SYMLINK_NOFOLLOW)
}

func deviceKind(t string) (uint32, error) {
	switch t {
	case "c", "u":
		return unix.S_IFCHR, nil
	case "b":
		return unix.S_IFBLK, nil
	case "p":
		return unix.S_IFIFO, nil
	}
	return 0, fmt.Errorf("unknown type %q", t)
}

func sameDevice(st unix.Stat_t, kind uint32, dev uint64) error {
	if st.Mode&unix.S_IFMT != kind || kind != unix.S_IFIFO && st.Rdev != dev {
		return errors.New("something else is in its place")
	}
	return nil
}

// bindDevice shows the guest's node of that name, if it is the same device.
func (r *Root) bindDevice(name string, kind uint32, dev uint64) error {
	tree, err := OpenTree(name, false)
	if err != nil {
		return fmt.Errorf("the guest's own: %w", err)
	}
	defer unix.Close(tree)
	var st unix.Stat_t
	if err := unix.Fstat(tree, &st); err != nil {
		return err
	}
	if err := sameDevice(st, kind, dev); err != nil {
		return fmt.Errorf("the guest's own: %w", err)
	}
	return r.attachFile(tree, name)
}

// attachFile mounts tree, which is not a directory, on the file name, created when missing.
func (r *Root) attachFile(tree int, name string) error {
	dst, err := r.createFile(name, 0o666)
	if err != nil {
		return err
	}
	defer unix.Close(dst)
	return attach(tree, dst)
}

func (r *Root) link(name, target string, replace bool) error {
	parent, err := r.MkdirAll(path.Dir(name), 0o755)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	base := path.Base(name)
	err = unix.Symlinkat(target, parent, base)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if !replace {
		return nil
	}
	if err := unix.Unlinkat(parent, base, 0); err != nil {
		return err
	}
	return unix.Symlinkat(target, parent, base)
}
