package container

import (
	"errors"
	"fmt"
	"strings"

	"github.com/huskvm/husk/guest-agent/internal/boot"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// holdShares makes the agent itself have mounted what the container gets of the host's shares, each of which is a file
// system that the kernel mounts where it is first looked at, and answers what undoes it. The container's mounts are
// copies of these. Were it the only one to have them, they would go with its last process; and a process that is killed
// while the kernel reads ahead for it leaves a request behind, whose end finds the file system gone: in Linux 6.12,
// fuse_release_end then puts an inode of no super block, which is a crash.
func holdShares(spec *specs.Spec) (undo func() error) {
	paths := []string{spec.Root.Path}
	for _, m := range spec.Mounts {
		paths = append(paths, m.Source)
	}
	var held []string
	for _, path := range paths {
		if !strings.HasPrefix(path, boot.Shares+"/") {
			continue
		}
		// A directory is asked for, as nothing else is mounted. What can't be opened is the stage's to tell.
		fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		unix.Close(fd)
		held = append(held, path)
	}
	return func() error {
		var errs []error
		for _, path := range held {
			err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			// It need not be a file system of its own, and a share that the host took back is unmounted already.
			if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("unmount share %s: %w", path, err))
			}
		}
		return errors.Join(errs...)
	}
}
