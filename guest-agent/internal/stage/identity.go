package stage

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"

	"github.com/huskvm/husk/guest-agent/internal/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// defaultUmask is that of hooks, and of programs that ask for none.
const defaultUmask = 0o022

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
	if p.config.Spec != nil && p.config.Spec.Linux != nil {
		if err := setMemoryPolicy(p.config.Spec.Linux.MemoryPolicy); err != nil {
			return err
		}
	}
	user, err := resolveUser(proc.User)
	if err != nil {
		return err
	}
	if proc.Env, err = environment(proc.Env, user.home); err != nil {
		return err
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
	umask := defaultUmask
	if proc.User.Umask != nil {
		umask = int(*proc.User.Umask)
	}
	unix.Umask(umask)
	if !entered {
		if err := unix.Chdir(proc.Cwd); err != nil {
			return fmt.Errorf("chdir to cwd (%q): %w", proc.Cwd, err)
		}
	}
	if err := insideRoot(); err != nil {
		return fmt.Errorf("chdir to cwd (%q): %w", proc.Cwd, err)
	}
	return caps.apply()
}

// insideRoot refuses a working directory outside of the root, which a descriptor left open in this process would
// lead to as /proc/self/fd/N (CVE-2024-21626). None is, but this is where it would end.
func insideRoot() error {
	wd, err := unix.Getwd()
	if err == nil && !filepath.IsAbs(wd) || errors.Is(err, unix.ENOENT) {
		return errors.New("it is not in the container's root")
	}
	return err
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
	if _, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, uintptr(domain), 0, 0); errno != 0 {
		return fmt.Errorf("set personality %s: %w", c.Domain, errno)
	}
	return nil
}
