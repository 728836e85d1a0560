package rootfs

import (
	"errors"
	"fmt"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// IDMap says whether a mount's ids are to be mapped: by mappings of its own or, when it has none, by those of the
// container's user namespace.
func IDMap(m specs.Mount) (bool, error) {
	mapped := len(m.UIDMappings) > 0 || len(m.GIDMappings) > 0
	o, err := parseOptions(m.Type, m.Options)
	if err != nil {
		return false, mountError(m, err)
	}
	switch mapped = mapped || o.idmap != noMap; {
	case mapped && !o.bind:
		return false, mountError(m, errors.New("the ids of bind mounts alone can be mapped"))
	case len(m.UIDMappings) > 0 != (len(m.GIDMappings) > 0):
		return false, mountError(m, errors.New("uidMappings and gidMappings come together"))
	}
	return mapped, nil
}

// IsBind says whether a mount shows what is there already.
func IsBind(m specs.Mount) bool {
	o, err := parseOptions(m.Type, m.Options)
	return err == nil && o.bind && !o.remount
}

// OpenSource opens what a bind mount shows, as a mount that is attached nowhere, with its ids mapped as in the user
// namespace userNS, unless that is -1. It is called where the guest's root may do what a container's may not.
func OpenSource(m specs.Mount, userNS int) (int, error) {
	o, err := parseOptions(m.Type, m.Options)
	if err != nil {
		return -1, mountError(m, err)
	}
	tree, err := OpenTree(m.Source, o.recursive)
	if err != nil {
		return -1, mountError(m, err)
	}
	if userNS < 0 {
		return tree, nil
	}
	flags := uint(unix.AT_EMPTY_PATH)
	if o.idmap == mapTree {
		flags |= unix.AT_RECURSIVE
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userNS)}
	if err := unix.MountSetattr(tree, "", flags, &attr); err != nil {
		unix.Close(tree)
		if errors.Is(err, unix.EINVAL) {
			err = fmt.Errorf("%w: its file system may have no support for mapped ids", err)
		}
		return -1, mountError(m, fmt.Errorf("map ids: %w", err))
	}
	return tree, nil
}

// OpenTree opens a path of the guest as a mount of its own that is attached nowhere.
func OpenTree(source string, recursive bool) (int, error) {
	if !filepath.IsAbs(source) {
		return -1, fmt.Errorf("source %q is not absolute", source)
	}
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, flags)
	if err != nil {
		return -1, fmt.Errorf("stat %s: %w", source, err)
	}
	return tree, nil
}
