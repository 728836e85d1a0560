package stage

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// replaceNull puts the container's own /dev/null in the place of the guest's among the standard descriptors: a file's
// owner and mode can be changed through a descriptor too. A container without one keeps the guest's.
func replaceNull() error {
	fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	var own unix.Stat_t
	if err := unix.Fstat(fd, &own); err != nil || !isNull(&own) {
		return err
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		return fmt.Errorf("open /dev/null: %w", err)
	}
	for i := range 3 {
		var st unix.Stat_t
		if err := unix.Fstat(i, &st); err != nil {
			return fmt.Errorf("stat standard descriptor %d: %w", i, err)
		}
		if !isNull(&st) || st.Dev == own.Dev {
			continue
		}
		if err := unix.Dup3(fd, i, 0); err != nil {
			return fmt.Errorf("make /dev/null descriptor %d: %w", i, err)
		}
	}
	return nil
}

func isNull(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3)
}
