package passthrough

import (
	"errors"

	"golang.org/x/sys/unix"
)

// errno is what a client is told of err: 0 for nil. Being out of descriptors is the server's trouble, not one of
// the client's process, hence ENFILE. ENOSYS would be taken for the server's, and the client would never ask again
// in any share; here it is one file system of the host that lacks something.
func errno(err error) unix.Errno {
	if err == nil {
		return 0
	}
	var e unix.Errno
	switch {
	case !errors.As(err, &e) || e == 0:
		return unix.EIO
	case e == unix.EMFILE:
		return unix.ENFILE
	case e == unix.ENOSYS:
		return unix.EOPNOTSUPP
	}
	return e
}

// retry repeats f for as long as it is interrupted.
func retry(f func() error) unix.Errno {
	for {
		if err := f(); err != unix.EINTR {
			return errno(err)
		}
	}
}
