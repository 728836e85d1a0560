package process

import (
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
	stepWait:    "wait for id mappings",
	stepTime:    "make time namespace",
	stepOffsets: "set timeOffsets",
	stepRoot:    "become root of the user namespace (are 0 and the groups mapped?)",
	stepFiles:   "hand over descriptors",
	stepExec:    "execute the stage",
}

// plan says where o's child is to be born.
func (b *birth) plan(o Options) {
	flags := uint64(o.CloneFlags)
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
	switch u := o.User; {
	case u == nil:
	case u.File == nil:
		flags |= unix.CLONE_NEWUSER
		b.waits, b.root = true, true
	default:
		b.joins = append(b.joins, join{int(u.File.Fd()), unix.CLONE_NEWUSER})
		b.root = true
		if flags&unix.CLONE_NEWPID != 0 {
			b.second.flags = flags | unix.CLONE_PARENT
		} else {
			b.unshare = int(flags)
		}
		return
	}
	b.first.flags |= flags
}

// forkSingle forks the stage by a birth. The calling goroutine must be locked to its thread.
func forkSingle(o Options, files []uintptr) (int, error) {
	var b birth
	b.plan(o)
	var err error
	if b.argv, err = syscall.SlicePtrFromStrings([]string{"husk-agent", stage.Name}); err != nil {
		return 0, err
	}
	if b.envp, err = syscall.SlicePtrFromStrings(stageEnv); err != nil {
		return 0, err
	}
	for _, fd := range files {
		high, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, len(files))
		if err != nil {
			return 0, fmt.Errorf("copy descriptor: %w", err)
		}
		defer unix.Close(high)
		b.files = append(b.files, high)
	}
	return b.run(o.User)
}

// run forks, writes the mappings, and waits for the execve or, of a child to be held, until it stands still.
func (b *birth) run(u *UserNamespace) (pid int, err error) {
	var sync, report [2]int
	if err := unix.Pipe2(sync[:], unix.O_CLOEXEC); err != nil {
		return 0, fmt.Errorf("make pipe: %w", err)
	}
	if err := unix.Pipe2(report[:], unix.O_CLOEXEC); err != nil {
		unix.Close(sync[0])
		unix.Close(sync[1])
		return 0, fmt.Errorf("make pipe: %w", err)
	}
	b.sync, b.report = sync[0], report[1]
	letGo := os.NewFile(uintptr(sync[1]), "sync")
	defer letGo.Close()
	reports := os.NewFile(uintptr(report[0]), "report")
	defer reports.Close()

	pid, err = b.forkQuietly()
	unix.Close(sync[0])
	unix.Close(report[1])
	if err != nil {
		return 0, err
	}
	child := pid
	if b.second.flags != 0 {
		if child, err = nextReport(reports); err != nil {
			return 0, err
		}
	}
	if b.waits {
		if err = writeMappings(child, u); err == nil {
			_, err = letGo.Write([]byte{1})
		}
	}
	if err == nil {
		_, err = nextReport(reports)
		if errors.Is(err, io.EOF) && !b.held {
			return child, nil
		}
	}
	if err != nil {
		// The child has not been waited for: the number is still its own.
		_ = unix.Kill(child, unix.SIGKILL)
		return 0, err
	}
	return child, nil
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
	b := birth{held: true}
	b.plan(Options{User: u})
	b.root = false // it may have no root
	var ns *os.File
	pid, _, err := r.Reaper.Start(func() (int, error) {
		pid, err := b.run(u)
		if err != nil {
			return 0, err
		}
		ns, err = os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
		_ = unix.Kill(pid, unix.SIGKILL)
		return pid, err
	})
	if err != nil {
		return nil, fmt.Errorf("make user namespace of %d: %w", pid, err)
	}
	return ns, nil
}
