package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many dangling symbolic links are followed while a missing path is created, as in path
// resolution itself.
const maxLinks = 40

// open resolves name below the root: a symbolic link or ".." never leads out of it.
func (r *Root) open(name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat2(r.fd, name, &unix.OpenHow{
			Flags:   uint64(flags) | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		// EAGAIN: something was renamed while ".." was resolved.
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		return fd, err
	}
}

// MkdirAll makes the directory name, and those above it, below the root and answers it opened with O_PATH.
func (r *Root) MkdirAll(name string, mode uint32) (int, error) {
	return r.create(path.Clean("/"+name), mode, true, maxLinks)
}

// createFile is MkdirAll for an empty file.
func (r *Root) createFile(name string, mode uint32) (int, error) {
	return r.create(path.Clean("/"+name), mode, false, maxLinks)
}

func (r *Root) create(name string, mode uint32, dir bool, links int) (int, error) {
	flags := unix.O_PATH
	if dir {
		flags |= unix.O_DIRECTORY
	}
	fd, err := r.open(name, flags)
	if err != unix.ENOENT || name == "/" {
		return fd, err
	}
	parent, err := r.create(path.Dir(name), 0o755, true, links)
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	base := path.Base(name)
	if dir {
		err = unix.Mkdirat(parent, base, mode)
	} else {
		err = mkfile(parent, base, mode)
	}
	if errors.Is(err, unix.EEXIST) {
		if links == 0 {
			return -1, unix.ELOOP
		}
		target, lerr := r.linkTarget(parent, base)
		if lerr != nil {
			return -1, lerr
		}
		return r.create(target, mode, dir, links-1)
	}
	if err != nil {
		return -1, err
	}
	return r.open(name, flags)
}

// linkTarget is where a dangling link leads, as a path of the container.
func (r *Root) linkTarget(parent int, base string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(parent, base, buf)
	if err != nil {
		// Not a link after all: another process made the entry meanwhile.
		return "", unix.EEXIST
	}
	target := string(buf[:n])
	if path.IsAbs(target) {
		return path.Clean(target), nil
	}
	real, err := os.Readlink(fdPath(parent))
	if err != nil {
		return "", err
	}
	return path.Join("/", strings.TrimPrefix(real, r.path), target), nil
}

func mkfile(parent int, base string, mode uint32) error {
	fd, err := unix.Openat(parent, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, mode)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func isDir(fd int) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, fmt.Errorf("stat: %w", err)
	}
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}
