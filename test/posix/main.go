// Command posix does to a directory's file system what programs do, and prints what came of it, one line a result.
// Nothing in a line depends on the machine or the moment, so the lines of two file systems can be compared: the
// end-to-end tests do that with a directory seen by the host and by a guest. It wants to be root, and runs without a
// C library.
//
//	posix DIR [GROUP…]
//
// DIR must be empty. GROUP is a group of cases; without one it is all of them.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// groups are the cases, each run in a directory of its own.
var groups = []struct {
	name string
	run  func(*T)
}{
	{"rename", renames}, {"rename-more", renamesMore}, {"link", links}, {"unlink", unlinks}, {"tmpfile", tmpfiles},
	{"open", opens}, {"mknod", mknods}, {"symlink", symlinks}, {"names", names}, {"permissions", permissions},
	{"owners", owners}, {"set-id", setids}, {"sticky", sticky}, {"acl", acls}, {"xattr", xattrs}, {"capability", capabilities},
	{"sparse", sparse}, {"fallocate", fallocates}, {"flock", flocks}, {"posix-lock", posixLocks}, {"ofd-lock", ofdLocks},
	{"mmap", mmaps}, {"copy", copies}, {"truncate", truncates}, {"times", times}, {"directory", directories},
	{"append", appends}, {"inotify", inotifies}, {"exec", execs},
}

// T is a group in progress.
type T struct {
	group string
	dir   string
	out   *bufio.Writer
}

func main() {
	runtime.LockOSThread() // the working directory and umask are everybody's; credentials are a thread's
	if len(os.Args) > 2 && os.Args[1] == "-child" {
		child(os.Args[2], os.Args[3:])
		return
	}
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: posix DIR [GROUP…]")
		os.Exit(2)
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	unix.Umask(0)
	for _, g := range groups {
		if len(os.Args) > 2 && !slices.Contains(os.Args[2:], g.name) {
			continue
		}
		t := &T{group: g.name, dir: filepath.Join(os.Args[1], g.name), out: out}
		t.must(os.Mkdir(t.dir, 0o755))
		g.run(t)
	}
}

// must ends the program when what a case begins with can't be made.
func (t *T) must(err error) {
	if err != nil {
		_ = t.out.Flush()
		fmt.Fprintf(os.Stderr, "posix: %s: %v\n", t.group, err)
		os.Exit(1)
	}
}

// is prints a result: values, and errors by their names.
func (t *T) is(what string, values ...any) {
	fmt.Fprintf(t.out, "%s: %s:", t.group, what)
	for _, v := range values {
		switch v := v.(type) {
		case nil:
			fmt.Fprint(t.out, " ok")
		case error:
			fmt.Fprint(t.out, " ", errname(v))
		default:
			fmt.Fprint(t.out, " ", v)
		}
	}
	fmt.Fprintln(t.out)
}

func errname(err error) string {
	var e unix.Errno
	if errors.As(err, &e) {
		return unix.ErrnoName(e)
	}
	return err.Error()
}

// p is the path of a name in the group's directory.
func (t *T) p(name string) string { return filepath.Join(t.dir, name) }

// file makes a file, with a mode whatever the umask, and returns its path.
func (t *T) file(name, content string, mode os.FileMode) string {
	t.must(os.WriteFile(t.p(name), []byte(content), 0o600))
	t.must(unix.Chmod(t.p(name), uint32(mode)))
	return t.p(name)
}

// mkdir makes a directory and returns its path.
func (t *T) mkdir(name string, mode uint32) string {
	t.must(unix.Mkdir(t.p(name), 0o700))
	t.must(unix.Chmod(t.p(name), mode))
	return t.p(name)
}

// open opens what is there.
func (t *T) open(path string, flags int) int {
	fd, err := unix.Open(path, flags, 0)
	t.must(err)
	return fd
}

// tryOpen opens and closes.
func tryOpen(path string, flags int, mode uint32) error {
	fd, err := unix.Open(path, flags, mode)
	if err == nil {
		err = unix.Close(fd)
	}
	return err
}

// stat is what there is to know of a path without following it.
func (t *T) stat(path string) unix.Stat_t {
	var st unix.Stat_t
	t.must(unix.Lstat(path, &st))
	return st
}

func (t *T) fstat(fd int) unix.Stat_t {
	var st unix.Stat_t
	t.must(unix.Fstat(fd, &st))
	return st
}

// mode prints a mode's permissions and set-id bits.
func (t *T) mode(path string) string { return fmt.Sprintf("%o", t.stat(path).Mode&0o7777) }

// look describes what is at a path: its kind, and what it holds.
func look(path string) string {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return errname(err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		b, err := os.ReadFile(path)
		if err != nil {
			return errname(err)
		}
		return fmt.Sprintf("file(%.20s,%d)", b, st.Nlink)
	case unix.S_IFDIR:
		entries, err := os.ReadDir(path)
		if err != nil {
			return errname(err)
		}
		return fmt.Sprintf("dir(%d,%d)", len(entries), st.Nlink)
	case unix.S_IFLNK:
		target, _ := os.Readlink(path)
		return fmt.Sprintf("link(%.20s)", target)
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFCHR:
		return fmt.Sprintf("char(%d)", st.Rdev)
	}
	return fmt.Sprintf("%o", st.Mode)
}

// as runs f as a user: on a thread of its own, which credentials belong to and which ends with f.
func (t *T) as(uid, gid int, groups []int, f func()) {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		// Not those of packages syscall and unix, which change all threads.
		err := unix.Setgroups(groups)
		if e := setres(unix.SYS_SETRESGID, gid); err == nil && e != 0 {
			err = e
		}
		if e := setres(unix.SYS_SETRESUID, uid); err == nil && e != 0 {
			err = e
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	t.must(<-done)
}

func setres(call uintptr, id int) unix.Errno {
	_, _, e := unix.RawSyscall(call, uintptr(id), uintptr(id), uintptr(id))
	return e
}
