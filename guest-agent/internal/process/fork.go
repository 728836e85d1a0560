package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"

	"github.com/huskvm/husk/guest-agent/internal/stage"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Namespace is an existing namespace, or by a pidfd those of a process.
type Namespace struct {
	File *os.File
	Flag int // CLONE_NEW…
}

// UserNamespace is one to join, or to make with mappings. Of a joined one the mappings tell only who its root is.
type UserNamespace struct {
	File *os.File // a pidfd or a namespace; nil: a new one
	UIDs []specs.LinuxIDMapping
	GIDs []specs.LinuxIDMapping
}

// Root is the user and the group of the guest that a user namespace has as its root.
func (u *UserNamespace) Root() (uid, gid int, err error) {
	if uid, err = hostID(u.UIDs); err != nil {
		return 0, 0, fmt.Errorf("uidMappings: %w", err)
	}
	if gid, err = hostID(u.GIDs); err != nil {
		return 0, 0, fmt.Errorf("gidMappings: %w", err)
	}
	return uid, gid, nil
}

func hostID(list []specs.LinuxIDMapping) (int, error) {
	for _, m := range list {
		if m.ContainerID == 0 && m.Size > 0 {
			return int(m.HostID), nil
		}
	}
	return 0, errors.New("a user namespace needs a root: nothing is mapped to 0")
}

// TimeNamespace is one to join, or to make with offsets, in the form of timens_offsets(5).
type TimeNamespace struct {
	File    *os.File // a pidfd or a namespace; nil: a new one
	Offsets string
}

// errBirth names what a child could not do, and so the field of the specification that asked for it.
var errBirth = map[step]string{
	stepJoin:    "join the user or time namespace",
	stepClone:   "make namespaces",
	stepWait:    "wait for the agent",
	stepTime:    "make time namespace",
	stepOffsets: "set timeOffsets",
	stepRoot:    "become root of the user namespace (are 0 and the groups mapped?)",
	stepFiles:   "hand over descriptors",
	stepExec:    "execute the stage",
}

// newBirth says where o's child is to be born.
func newBirth(o Options) *birth {
	b := &birth{pidfd: -1}
	flags := uint64(o.CloneFlags)
	b.first.flags = unix.CLONE_PIDFD
	b.first.exitSignal = uint64(unix.SIGCHLD)
	if o.Cgroup != nil {
		b.first.flags |= unix.CLONE_INTO_CGROUP
		b.first.cgroup = uint64(o.Cgroup.Fd())
	}
	if t := o.Time; t != nil {
		if b.newTime = t.File == nil; b.newTime {
			b.offsets = []byte(t.Offsets)
		} else {
			b.joins = append(b.joins, join{int(t.File.Fd()), unix.CLONE_NEWTIME})
		}
	}
	b.root = o.User != nil
	switch u := o.User; {
	case u == nil:
	case u.File == nil:
		flags |= unix.CLONE_NEWUSER
	default:
		b.joins = append(b.joins, join{int(u.File.Fd()), unix.CLONE_NEWUSER})
		if flags&unix.CLONE_NEWPID != 0 {
			b.second.flags = flags | unix.CLONE_PARENT
		} else {
			b.unshare = int(flags)
		}
		return b
	}
	b.first.flags |= flags
	return b
}

// begin forks. The calling goroutine must be locked to its thread. On error nothing is left.
func (b *birth) begin(files []uintptr) (err error) {
	if b.argv, err = syscall.SlicePtrFromStrings([]string{"husk-agent", stage.Name}); err != nil {
		return err
	}
	if b.envp, err = syscall.SlicePtrFromStrings(stageEnv); err != nil {
		return err
	}
	for _, fd := range files {
		high, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, len(files))
		if err != nil {
			return fmt.Errorf("copy descriptor: %w", err)
		}
		defer unix.Close(high)
		b.files = append(b.files, high)
	}
	var sync, report [2]int
	if err := unix.Pipe2(sync[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer unix.Close(sync[0])
	if err := unix.Pipe2(report[:], unix.O_CLOEXEC); err != nil {
		unix.Close(sync[1])
		return fmt.Errorf("make pipe: %w", err)
	}
	defer unix.Close(report[1])
	b.sync, b.hold, b.report = sync[0], sync[1], report[1]
	b.release = os.NewFile(uintptr(sync[1]), "sync")
	b.reports = os.NewFile(uintptr(report[0]), "report")
	if b.pid, err = b.forkQuietly(); err != nil {
		b.closePipes()
		return err
	}
	b.pidfd = int(b.firstFD)
	return nil
}

// meet waits until the child is there, which is the first one's child where there are two.
func (b *birth) meet(ctx context.Context) error {
	if b.second.flags == 0 {
		return nil
	}
	first := b.pidfd
	defer unix.Close(first)
	b.pidfd = -1
	defer killAfter(ctx, first)()
	fds := []unix.PollFd{{Fd: int32(b.reports.Fd()), Events: unix.POLLIN}, {Fd: int32(first), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err == nil {
			break
		} else if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for the first child: %w", err)
		}
	}
	if fds[0].Revents&unix.POLLIN == 0 {
		return unix.ESRCH // it has died, and a second child does so when it is not let go
	}
	pid, err := nextReport(b.reports)
	if err != nil {
		return err
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	// The number may be another's already. Only the child has the report pipe.
	if !b.reportsFrom(pidfd) {
		unix.Close(pidfd)
		return unix.ESRCH
	}
	b.pid, b.pidfd = pid, pidfd
	return nil
}

// reportsFrom tells whether a process has the other end of the report pipe.
func (b *birth) reportsFrom(pidfd int) bool {
	fd, err := unix.PidfdGetfd(pidfd, b.report, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var ours, theirs unix.Stat_t
	return unix.Fstat(int(b.reports.Fd()), &ours) == nil && unix.Fstat(fd, &theirs) == nil &&
		ours.Dev == theirs.Dev && ours.Ino == theirs.Ino
}

// letGo lets the child go on, and waits for its execve.
func (b *birth) letGo(ctx context.Context) error {
	defer b.closePipes()
	defer killAfter(ctx, b.pidfd)()
	if _, err := b.release.Write([]byte{1}); err != nil {
		return b.death()
	}
	if _, err := nextReport(b.reports); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// death tells why a child has ended that was not let go.
func (b *birth) death() error {
	if _, err := nextReport(b.reports); !errors.Is(err, io.EOF) {
		return err
	}
	return unix.ESRCH
}

// killAfter ends a process when ctx does, until stop: nobody else would, when it is frozen.
func killAfter(ctx context.Context, pidfd int) (stop func()) {
	killed := make(chan struct{})
	after := context.AfterFunc(ctx, func() {
		_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		close(killed)
	})
	return func() {
		if !after() {
			<-killed
		}
	}
}

// abandon ends a child that has not executed its program. The reaper takes it.
func (b *birth) abandon() {
	b.closePipes()
	if b.pidfd >= 0 {
		_ = unix.PidfdSendSignal(b.pidfd, unix.SIGKILL, nil, 0)
		unix.Close(b.pidfd)
	}
}

func (b *birth) closePipes() {
	b.release.Close()
	b.reports.Close()
}

// forkQuietly forks while no signal can reach this thread, nor the child, whose handlers are the agent's still.
func (b *birth) forkQuietly() (int, error) {
	var all unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &b.mask); err != nil {
		return 0, fmt.Errorf("block signals: %w", err)
	}
	pid, errno := b.fork()
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &b.mask, nil); err != nil {
		return 0, fmt.Errorf("unblock signals: %w", err)
	}
	if errno != 0 {
		return 0, fmt.Errorf("clone: %w", errno)
	}
	return pid, nil
}

// nextReport reads what a child tells. io.EOF means that it has executed its program, or is dead.
func nextReport(f *os.File) (int, error) {
	var r record
	if _, err := io.ReadFull(f, r.bytes()); err != nil {
		return 0, err
	}
	if r.step == stepPID {
		return int(r.value), nil
	}
	return 0, fmt.Errorf("%s: %w", errBirth[r.step], unix.Errno(r.value))
}

// writeMappings fills in a new user namespace.
func writeMappings(pid int, u *UserNamespace) error {
	for _, m := range []struct {
		file string
		list []specs.LinuxIDMapping
	}{{"uid_map", u.UIDs}, {"gid_map", u.GIDs}} {
		var text []byte
		for _, l := range m.list {
			text = fmt.Appendf(text, "%d %d %d\n", l.ContainerID, l.HostID, l.Size)
		}
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/%s", pid, m.file), text, 0); err != nil {
			return fmt.Errorf("write %s %q: %w", m.file, text, err)
		}
	}
	return nil
}

// NewUserNamespace makes a user namespace that nobody lives in: mounts take their mappings from one.
func (r *Runner) NewUserNamespace(u *UserNamespace) (*os.File, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b := newBirth(Options{User: u})
	r.births.Lock()
	err := b.begin(nil)
	r.births.Unlock()
	if err != nil {
		return nil, fmt.Errorf("make user namespace: %w", err)
	}
	defer b.abandon()
	var ns *os.File
	_, err = r.Reaper.Adopt(b.pid, b.pidfd, func() error {
		if err := writeMappings(b.pid, u); err != nil {
			return err
		}
		ns, err = os.Open(fmt.Sprintf("/proc/%d/ns/user", b.pid))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make user namespace: %w", err)
	}
	return ns, nil
}
