package stage

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var resources = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU,
	"RLIMIT_DATA": unix.RLIMIT_DATA, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS,
	"RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK, "RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE,
	"RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS,
	"RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO, "RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
	"RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
}

// CheckRlimits refuses unknown limits, and a second value for one, as the runtime-spec wants.
func CheckRlimits(list []specs.POSIXRlimit) error {
	seen := map[string]bool{}
	for _, l := range list {
		if _, ok := resources[l.Type]; !ok {
			return fmt.Errorf("unknown rlimit %q", l.Type)
		}
		if seen[l.Type] {
			return fmt.Errorf("rlimit %s is given twice", l.Type)
		}
		seen[l.Type] = true
	}
	return nil
}

// RaiseRlimits raises the hard limits of a stage that may not do so itself, in a user namespace, to those it is
// going to set.
func RaiseRlimits(pid int, list []specs.POSIXRlimit) error {
	for _, l := range list {
		resource := resources[l.Type]
		var now unix.Rlimit
		err := unix.Prlimit(pid, resource, nil, &now)
		if err == nil && now.Max < l.Hard {
			now.Max = l.Hard
			err = unix.Prlimit(pid, resource, &now, nil)
		}
		if err != nil {
			return fmt.Errorf("raise rlimit %s to %d: %w", l.Type, l.Hard, err)
		}
	}
	return nil
}

func setRlimits(list []specs.POSIXRlimit) error {
	for _, l := range list {
		resource := resources[l.Type]
		if err := unix.Prlimit(0, resource, &unix.Rlimit{Cur: l.Soft, Max: l.Hard}, nil); err != nil {
			return fmt.Errorf("set rlimit %s to %d:%d: %w", l.Type, l.Soft, l.Hard, err)
		}
	}
	return nil
}
