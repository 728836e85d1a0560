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
// from outside. The umask must be 0.
func (r *Root) Devices(extra []specs.LinuxDevice) error {
	if r.devBound {
		return nil
	}
	for _, list := range [][]specs.LinuxDevice{standardDevices, extra} {
		for _, d := range list {
			if err := r.device(d); err != nil {
				return fmt.Errorf("device %s: %w", d.Path, err)
			}
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

func (r *Root) device(d specs.LinuxDevice) error {
	var kind uint32
	switch d.Type {
	case "c", "u":
		kind = unix.S_IFCHR
	case "b":
		kind = unix.S_IFBLK
	case "p":
		kind = unix.S_IFIFO
	default:
		return fmt.Errorf("unknown type %q", d.Type)
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
	err = unix.Mknodat(parent, path.Base(name), kind|mode, int(dev))
	switch {
	case errors.Is(err, unix.EEXIST):
		return nil
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EACCES), errors.Is(err, unix.EROFS):
		// A shared file system refuses device nodes; the guest's own node serves as well.
		return r.bindDevice(name)
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

func (r *Root) bindDevice(name string) error {
	tree, err := bind(name, options{})
	if err != nil {
		return err
	}
	defer unix.Close(tree)
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
