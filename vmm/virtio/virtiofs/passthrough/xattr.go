package passthrough

import (
	"bytes"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// trusted.* needs a capability in the host's initial namespace that the process does not have, so the guest's are
// kept under another name. The host's own stay out of reach.
const (
	trusted       = "trusted."
	mappedTrusted = "user.husk.trusted."
)

// hostName is an attribute's name on the host; false for one that a guest may not use.
func hostName(name string) (string, bool) {
	switch {
	case strings.HasPrefix(name, mappedTrusted):
		return "", false
	case strings.HasPrefix(name, trusted):
		return mappedTrusted + strings.TrimPrefix(name, trusted), true
	}
	return name, true
}

// withFile runs do on an open descriptor of the inode. Links and special files have no attributes here.
func (fs *FS) withFile(i *inode, do func(fd int) error) fuse.Status {
	fd, err := fs.open(i, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return status(err)
	}
	defer unix.Close(fd)
	return status(do(fd))
}

// GetXAttr implements fuse.RawFileSystem.
func (fs *FS) GetXAttr(_ <-chan struct{}, in *fuse.InHeader, name string, dest []byte) (size uint32, code fuse.Status) {
	host, ok := hostName(name)
	if !ok {
		return 0, fuse.ENODATA
	}
	i, code := fs.get(in.NodeId)
	if code != fuse.OK {
		return 0, code
	}
	defer fs.put(i)
	if i.kind != unix.S_IFREG && i.kind != unix.S_IFDIR {
		return 0, fuse.ENODATA
	}
	code = fs.withFile(i, func(fd int) error {
		n, err := unix.Fgetxattr(fd, host, dest)
		size = uint32(max(n, 0))
		return err
	})
	return size, code
}

// ListXAttr implements fuse.RawFileSystem.
func (fs *FS) ListXAttr(_ <-chan struct{}, in *fuse.InHeader, dest []byte) (size uint32, code fuse.Status) {
	i, code := fs.get(in.NodeId)
	if code != fuse.OK {
		return 0, code
	}
	defer fs.put(i)
	if i.kind != unix.S_IFREG && i.kind != unix.S_IFDIR {
		return 0, fuse.OK
	}
	code = fs.withFile(i, func(fd int) error {
		buf := make([]byte, 64<<10) // the kernel's limit
		n, err := unix.Flistxattr(fd, buf)
		if err != nil {
			return err
		}
		list := guestNames(buf[:n])
		size = uint32(len(list))
		if len(dest) > 0 && len(list) > len(dest) {
			return unix.ERANGE
		}
		copy(dest, list)
		return nil
	})
	return size, code
}

// guestNames turns the host's list of names into the guest's.
func guestNames(list []byte) []byte {
	var out []byte
	for name := range bytes.SplitSeq(bytes.TrimSuffix(list, []byte{0}), []byte{0}) {
		if len(name) == 0 || bytes.HasPrefix(name, []byte(trusted)) {
			continue
		}
		if rest, ok := bytes.CutPrefix(name, []byte(mappedTrusted)); ok {
			out = append(out, trusted...)
			name = rest
		}
		out = append(append(out, name...), 0)
	}
	return out
}

// SetXAttr implements fuse.RawFileSystem.
func (fs *FS) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, data []byte) fuse.Status {
	host, ok := hostName(name)
	if !ok {
		return fuse.EPERM
	}
	i, code := fs.writable(in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.put(i)
	return fs.withFile(i, func(fd int) error { return unix.Fsetxattr(fd, host, data, int(in.Flags)) })
}

// RemoveXAttr implements fuse.RawFileSystem.
func (fs *FS) RemoveXAttr(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	host, ok := hostName(name)
	if !ok {
		return fuse.ENODATA
	}
	i, code := fs.writable(in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.put(i)
	return fs.withFile(i, func(fd int) error { return unix.Fremovexattr(fd, host) })
}
