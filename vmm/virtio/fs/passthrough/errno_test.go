package passthrough

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

func TestErrnoIsWhatAClientMayBeTold(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want unix.Errno
	}{
		{nil, 0},
		{unix.ENOENT, unix.ENOENT},
		{fmt.Errorf("open: %w", unix.EACCES), unix.EACCES},
		{unix.EMFILE, unix.ENFILE},
		{unix.ENOSYS, unix.EOPNOTSUPP}, // or the client's kernel would never ask again
		{unix.Errno(0), unix.EIO},
		{errors.New("no number"), unix.EIO},
	} {
		if got := errno(tt.err); got != tt.want {
			t.Errorf("%v: %d, want %d", tt.err, got, tt.want)
		}
	}
}
