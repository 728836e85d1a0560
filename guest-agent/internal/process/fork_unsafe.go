package process

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cloneArgs is struct clone_args of clone3(2).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// birth is what a child needs between clone3(2) and execve(2), all of it prepared in the parent: until the execve
// the child is one thread of a Go program without the others, and can make system calls but nothing else.
//
// It exists for what package syscall's fork can't do. It enters a user or a time namespace, which the kernel grants
// only to a process of a single thread, and which the stage, a Go program, therefore can't do itself. And the parent
// never waits in the kernel for a child that the container's cgroup, frozen or without processor time, holds up.
type birth struct {
	first cloneArgs
	// second, unless its flags are 0, forks once more when the namespaces are joined, so that the new ones belong
	// to the user namespace, the one of pids among them; the first child ends. Its parent is the agent as well.
	second  cloneArgs
	joins   []join
	unshare int // what is made anew once they are joined, where no second fork is needed
	newTime bool
	offsets []byte // for timens_offsets; may be empty
	root    bool   // become root of the user namespace

	files      []int // to be descriptors 0, 1, …; none of them is below len(files)
	sync       int   // read end of a pipe: a byte lets the child go on, its end ends it
	hold       int   // the write end
	report     int   // write end of a pipe: records
	argv, envp []*byte
	mask       unix.Sigset_t // of signals, to be restored
	firstFD    int32         // the first child's pidfd, which the kernel writes here

	// The parent's.
	pid, pidfd       int // the only child's, once meet has returned
	release, reports *os.File
}

// join is one setns(2).
type join struct{ fd, flag int }

// step is what a child was doing when it failed; 0 is no failure, but tells the process id of the second child.
type step int32

const (
	stepPID step = iota
	stepJoin
	stepClone
	stepWait
	stepTime
	stepOffsets
	stepRoot
	stepFiles
	stepExec
)

// record is what a child writes to its report pipe.
type record struct {
	step  step
	value int32
}

var (
	offsetsFile = [...]byte{'/', 'p', 'r', 'o', 'c', '/', 's', 'e', 'l', 'f', '/', 't', 'i', 'm', 'e', 'n', 's', '_',
		'o', 'f', 'f', 's', 'e', 't', 's', 0}
	// selfFile is the agent's executable, wherever the root has moved to since it was started.
	selfFile = [...]byte{'/', 'p', 'r', 'o', 'c', '/', 's', 'e', 'l', 'f', '/', 'e', 'x', 'e', 0}
)

// fork makes the child. The calling goroutine must be locked to its thread, with all signals blocked.
//
//go:norace
//go:nosplit
func (b *birth) fork() (int, unix.Errno) {
	b.first.pidfd = uint64(uintptr(unsafe.Pointer(&b.firstFD)))
	pid, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&b.first)), unsafe.Sizeof(b.first), 0)
	if pid == 0 && errno == 0 {
		s, errno := b.live()
		b.tell(s, int32(errno))
		for {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0)
		}
	}
	runtime.KeepAlive(b)
	return int(pid), errno
}

//go:norace
//go:nosplit
func (b *birth) tell(s step, value int32) {
	r := record{s, value}
	unix.RawSyscall(unix.SYS_WRITE, uintptr(b.report), uintptr(unsafe.Pointer(&r)), unsafe.Sizeof(r))
}

// live is the child's life; it returns only when something has failed.
//
//go:norace
//go:nosplit
func (b *birth) live() (step, unix.Errno) {
	for i := range b.joins {
		_, _, errno := unix.RawSyscall(unix.SYS_SETNS, uintptr(b.joins[i].fd), uintptr(b.joins[i].flag), 0)
		if errno != 0 {
			return stepJoin, errno
		}
	}
	if b.unshare != 0 {
		if _, _, errno := unix.RawSyscall(unix.SYS_UNSHARE, uintptr(b.unshare), 0, 0); errno != 0 {
			return stepClone, errno
		}
	}
	if b.second.flags != 0 {
		pid, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&b.second)), unsafe.Sizeof(b.second), 0)
		if errno != 0 {
			return stepClone, errno
		}
		if pid != 0 {
			b.tell(stepPID, int32(pid))
			for {
				unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
			}
		}
	}
	unix.RawSyscall(unix.SYS_CLOSE, uintptr(b.hold), 0, 0)
	var one byte
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(b.sync), uintptr(unsafe.Pointer(&one)), 1)
	if n != 1 {
		return stepWait, errno
	}
	// A time namespace gets its offsets before anyone enters it, which execve does. Root of a user namespace would
	// not own the file any more.
	if b.newTime {
		if _, _, errno := unix.RawSyscall(unix.SYS_UNSHARE, unix.CLONE_NEWTIME, 0, 0); errno != 0 {
			return stepTime, errno
		}
	}
	if len(b.offsets) > 0 {
		if errno := b.writeOffsets(); errno != 0 {
			return stepOffsets, errno
		}
	}
	if b.root {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
			return stepRoot, errno
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, 0, 0, 0); errno != 0 {
			return stepRoot, errno
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 0, 0, 0); errno != 0 {
			return stepRoot, errno
		}
	}
	for i := range b.files {
		if _, _, errno := unix.RawSyscall(unix.SYS_DUP3, uintptr(b.files[i]), uintptr(i), 0); errno != 0 {
			return stepFiles, errno
		}
	}
	unix.RawSyscall(unix.SYS_SETSID, 0, 0, 0)
	const setMask = 2 // SIG_SETMASK
	unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, setMask, uintptr(unsafe.Pointer(&b.mask)), 0, 8, 0, 0)
	_, _, errno = unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(&selfFile[0])),
		uintptr(unsafe.Pointer(&b.argv[0])), uintptr(unsafe.Pointer(&b.envp[0])))
	return stepExec, errno
}

//go:norace
//go:nosplit
func (b *birth) writeOffsets() unix.Errno {
	at := unix.AT_FDCWD
	fd, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(at), uintptr(unsafe.Pointer(&offsetsFile[0])),
		unix.O_WRONLY|unix.O_CLOEXEC, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	_, _, errno = unix.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&b.offsets[0])), uintptr(len(b.offsets)))
	unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	return errno
}

// bytes is where a record is read to.
func (r *record) bytes() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(r)), unsafe.Sizeof(*r))
}
