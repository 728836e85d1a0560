package stage

import (
	"fmt"
	"runtime"

	"github.com/huskvm/husk/guest-agent/internal/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// assumeIdentity turns the thread into the user of the specification, with its limits, capabilities, groups and
// working directory. The order matters: each step needs privileges that a later one gives away.
func (p *program) assumeIdentity(filter *seccomp.Filter) error {
	proc := p.process
	if err := setRlimits(proc.Rlimits); err != nil {
		return err
	}
	if err := setPersonality(p.config.Personality); err != nil {
		return err
	}
	if err := setScheduling(proc); err != nil {
		return err
	}
	user, err := resolveUser(proc.User)
	if err != nil {
		return err
	}
	if environ(proc.Env, "HOME") == "" {
		proc.Env = append(proc.Env, "HOME="+user.home)
	}
	if err := ownStdio(user.uid); err != nil {
		return err
	}
	caps, err := parseCapabilities(proc.Capabilities)
	if err != nil {
		return err
	}
	if filter != nil {
		p.filter = installer(filter, proc.NoNewPrivileges || caps.effective.has(unix.CAP_SYS_ADMIN))
	}
	if proc.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("set noNewPrivileges: %w", err)
		}
	}
	// A directory that only root can enter is entered by root, one that only the user can (as on a file system
	// that maps root away) by the user.
	entered := unix.Chdir(proc.Cwd) == nil
	if err := dropBounding(caps.bounding); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("keep capabilities: %w", err)
	}
	if err := setIDs(user); err != nil {
		return err
	}
	umask := 0o022
	if proc.User.Umask != nil {
		umask = int(*proc.User.Umask)
	}
	unix.Umask(umask)
	if !entered {
		if err := unix.Chdir(proc.Cwd); err != nil {
			return fmt.Errorf("chdir to cwd (%q): %w", proc.Cwd, err)
		}
	}
	return caps.apply()
}

// installer is how the filter will be installed at the very end. A process that may not install filters itself
// leaves it to a thread that keeps the privilege, so that the profile needs to allow nothing on our behalf.
func installer(filter *seccomp.Filter, mayInstall bool) func() error {
	if mayInstall {
		return filter.Install
	}
	request, result := make(chan struct{}), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		<-request
		result <- filter.InstallOnAll()
	}()
	return func() error {
		close(request)
		return <-result
	}
}

// ownStdio lets the user open its standard streams again, through /dev/stdout and the like.
func ownStdio(uid int) error {
	for fd := range 3 {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return fmt.Errorf("stat standard descriptor %d: %w", fd, err)
		}
		if int(st.Uid) == uid || st.Rdev == unix.Mkdev(1, 3) {
			continue
		}
		if err := unix.Fchown(fd, uid, -1); err != nil {
			return fmt.Errorf("chown standard descriptor %d: %w", fd, err)
		}
	}
	return nil
}

var resources = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU,
	"RLIMIT_DATA": unix.RLIMIT_DATA, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS,
	"RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK, "RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE,
	"RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS,
	"RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO, "RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
	"RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
}

func setRlimits(list []specs.POSIXRlimit) error {
	for _, l := range list {
		resource, ok := resources[l.Type]
		if !ok {
			return fmt.Errorf("unknown rlimit %q", l.Type)
		}
		if err := unix.Prlimit(0, resource, &unix.Rlimit{Cur: l.Soft, Max: l.Hard}, nil); err != nil {
			return fmt.Errorf("set rlimit %s to %d:%d: %w", l.Type, l.Soft, l.Hard, err)
		}
	}
	return nil
}

// Personality domains of linux/personality.h.
const (
	perLinux   = 0
	perLinux32 = 8
)

func setPersonality(c *specs.LinuxPersonality) error {
	if c == nil {
		return nil
	}
	domain := perLinux
	switch c.Domain {
	case specs.PerLinux:
	case specs.PerLinux32:
		domain = perLinux32
	default:
		return fmt.Errorf("unknown personality %q", c.Domain)
	}
	if len(c.Flags) > 0 {
		return fmt.Errorf("personality flags %v are not supported", c.Flags)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, uintptr(domain), 0, 0); errno != 0 {
		return fmt.Errorf("set personality %s: %w", c.Domain, errno)
	}
	return nil
}
