package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func times(t *T) {
	path := t.file("f", "x", 0o644)
	get := func(path string) string {
		st := t.stat(path)
		return fmt.Sprintf("%d.%09d %d.%09d", st.Atim.Sec, st.Atim.Nsec, st.Mtim.Sec, st.Mtim.Nsec)
	}
	set := func(path string, flags int, a, m unix.Timespec) error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{a, m}, flags)
	}
	for _, c := range [][2]unix.Timespec{
		{{Sec: 1, Nsec: 2}, {Sec: 3, Nsec: 999_999_999}}, {{Sec: -5, Nsec: 1}, {Sec: -1 << 31}}, {{Sec: 1 << 32}, {Sec: 1<<33 + 5, Nsec: 7}},
		{{Sec: 1 << 40}, {Sec: 5}}, {{Sec: 1, Nsec: 1_000_000_000}, {Sec: 2}}, {{Sec: 1, Nsec: -1}, {Sec: 2}}, {{Sec: 11, Nsec: unix.UTIME_OMIT}, {Sec: 12}}, {{Sec: 13}, {Nsec: unix.UTIME_OMIT}},
	} {
		t.is(fmt.Sprint("set ", c), set(path, 0, c[0], c[1]), get(path))
	}
	t.is("omit both", set(path, 0, unix.Timespec{Nsec: unix.UTIME_OMIT}, unix.Timespec{Nsec: unix.UTIME_OMIT}), get(path))
	t.must(unix.Symlink("f", t.p("s")))
	t.is("of a link", set(t.p("s"), unix.AT_SYMLINK_NOFOLLOW, unix.Timespec{Sec: 5}, unix.Timespec{Sec: 6}), get(path))
	t.is("through a link", set(t.p("s"), 0, unix.Timespec{Sec: 7}, unix.Timespec{Sec: 8}), get(path))
	t.is("of a directory", set(t.mkdir("d", 0o755), 0, unix.Timespec{Sec: 7, Nsec: 1}, unix.Timespec{Sec: 8, Nsec: 2}), get(t.p("d")))
	var stx unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BTIME, &stx)
	t.is("time of birth", err, stx.Mask&unix.STATX_BTIME != 0, stx.Btime.Sec > 1_000_000_000)

	// What changes which.
	t.must(os.WriteFile(t.p("d/f"), nil, 0o644))
	fd := t.open(t.p("d/f"), unix.O_RDWR)
	for _, c := range []struct {
		name string
		do   func() error
	}{
		{"write", func() error { _, err := unix.Write(fd, []byte("x")); return err }},
		{"write nothing", func() error { _, err := unix.Write(fd, nil); return err }},
		{"truncate to the same", func() error { return unix.Ftruncate(fd, 1) }},
		{"truncate", func() error { return unix.Ftruncate(fd, 0) }},
		{"allocate", func() error { return unix.Fallocate(fd, 0, 0, 10) }},
		{"chmod", func() error { return unix.Fchmod(fd, 0o600) }},
		{"chmod to the same", func() error { return unix.Fchmod(fd, 0o600) }},
		{"chown", func() error { return unix.Fchown(fd, 1, 1) }},
		{"chown to nobody else", func() error { return unix.Fchown(fd, -1, -1) }},
		{"attribute", func() error { return unix.Fsetxattr(fd, "user.a", []byte("b"), 0) }},
		{"link", func() error { return unix.Link(t.p("d/f"), t.p("d/g")) }},
		{"rename", func() error { return unix.Rename(t.p("d/g"), t.p("d/h")) }},
		{"unlink", func() error { return unix.Unlink(t.p("d/h")) }},
		{"create", func() error { return tryOpen(t.p("d/new"), unix.O_CREAT|unix.O_WRONLY, 0o644) }},
		{"open and truncate", func() error { return tryOpen(t.p("d/f"), unix.O_WRONLY|unix.O_TRUNC, 0) }},
		{"make a directory", func() error { return unix.Mkdir(t.p("d/sub"), 0o755) }},
		{"remove a directory", func() error { return unix.Rmdir(t.p("d/sub")) }},
		{"look up nothing", func() error { return unix.Access(t.p("d/none"), 0) }},
	} {
		f, d := t.fstat(fd), t.stat(t.p("d"))
		settle()
		err := c.do()
		nf, nd := t.fstat(fd), t.stat(t.p("d"))
		t.is(c.name, err, "file", nf.Mtim != f.Mtim, nf.Ctim != f.Ctim, "directory", nd.Mtim != d.Mtim, nd.Ctim != d.Ctim)
	}
}

// entry is one of getdents.
type entry struct {
	ino  uint64
	next int64
	typ  byte
	name string
}

// readDir reads the entries that one call gives.
func readDir(fd, room int) ([]entry, error) {
	buf := make([]byte, room)
	n, err := unix.Getdents(fd, buf)
	if err != nil {
		return nil, err
	}
	var list []entry
	for b := buf[:n]; len(b) > 19; b = b[binary.NativeEndian.Uint16(b[16:]):] {
		name, _, _ := strings.Cut(string(b[19:binary.NativeEndian.Uint16(b[16:])]), "\x00")
		list = append(list, entry{binary.NativeEndian.Uint64(b), int64(binary.NativeEndian.Uint64(b[8:])), b[18], name})
	}
	return list, nil
}

func (t *T) readAll(fd, room int) []entry {
	var all []entry
	for {
		list, err := readDir(fd, room)
		t.must(err)
		if len(list) == 0 {
			return all
		}
		all = append(all, list...)
	}
}

func directories(t *T) {
	const files = 1000
	dir := t.mkdir("many", 0o755)
	for i := range files {
		t.must(os.WriteFile(fmt.Sprintf("%s/file with a name that takes room %d", dir, i), nil, 0o644))
	}
	fd := t.open(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	for _, room := range []int{300, 4096, 64 << 10} {
		_, err := unix.Seek(fd, 0, unix.SEEK_SET)
		t.must(err)
		all := t.readAll(fd, room)
		seen := map[string]int{}
		for _, e := range all {
			seen[e.name]++
		}
		t.is(fmt.Sprint("list by ", room), len(all), len(seen), seen["."], seen[".."])
	}
	_, err := unix.Seek(fd, 0, unix.SEEK_SET)
	t.must(err)
	all := t.readAll(fd, 4096)
	right := 0
	for i := 0; i+1 < len(all); i += 37 {
		_, err := unix.Seek(fd, all[i].next, unix.SEEK_SET)
		t.must(err)
		list, err := readDir(fd, 4096)
		t.must(err)
		if len(list) > 0 && list[0] == all[i+1] {
			right++
		}
	}
	t.is("seek to entries", right)
	_, err = unix.Seek(fd, all[len(all)-1].next, unix.SEEK_SET)
	t.must(err)
	list, err := readDir(fd, 4096)
	t.is("seek to the end", err, len(list))
	_, err = readDir(fd, 10)
	t.is("too little room", err)
	inodes := 0
	for _, e := range all {
		if e.name != ".." && t.stat(dir+"/"+e.name).Ino == e.ino {
			inodes++
		}
	}
	t.is("inode numbers are stat's", inodes)

	// Removing while reading, as rm -r does: nothing is left out.
	_, err = unix.Seek(fd, 0, unix.SEEK_SET)
	t.must(err)
	removed := 0
	for {
		list, err := readDir(fd, 1000)
		t.must(err)
		if len(list) == 0 {
			break
		}
		for _, e := range list {
			if e.name != "." && e.name != ".." {
				t.must(unix.Unlink(dir + "/" + e.name))
				removed++
			}
		}
	}
	t.is("remove while reading", removed, unix.Rmdir(dir))
	list, err = readDir(fd, 1000)
	t.is("read what is removed", err, len(list))
	t.must(unix.Close(fd))

	// What is there before and after is listed once, whatever comes and goes meanwhile.
	dir = t.mkdir("busy", 0o755)
	for i := range 200 {
		t.must(os.WriteFile(fmt.Sprintf("%s/stays %d", dir, i), nil, 0o644))
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			name := fmt.Sprintf("%s/comes %d", dir, i%50)
			_ = os.WriteFile(name, nil, 0o644)
			_ = os.Rename(name, name+" and goes")
			_ = os.Remove(name + " and goes")
		}
	}()
	wrong := 0
	for range 20 {
		fd := t.open(dir, unix.O_RDONLY|unix.O_DIRECTORY)
		seen := map[string]int{}
		for _, e := range t.readAll(fd, 1000) {
			if strings.HasPrefix(e.name, "stays") {
				seen[e.name]++
			}
		}
		for _, n := range seen {
			if n != 1 {
				wrong++
			}
		}
		if len(seen) != 200 {
			wrong++
		}
		t.must(unix.Close(fd))
	}
	close(stop)
	<-stopped
	t.is("list while others change it, wrong", wrong)

	types := t.mkdir("types", 0o755)
	for _, k := range kinds[1:] {
		t.must(k.make(t, types+"/"+k.name))
	}
	fd = t.open(types, unix.O_RDONLY|unix.O_DIRECTORY)
	var words []string
	for _, e := range t.readAll(fd, 4096) {
		words = append(words, fmt.Sprint(e.name, "=", e.typ))
	}
	t.is("types", sorted(words))
	t.must(os.WriteFile(types+"/new", nil, 0o644))
	_, err = unix.Seek(fd, 0, unix.SEEK_SET)
	t.is("a new one after a rewind", err, len(t.readAll(fd, 4096)))
	t.must(unix.Close(fd))
	t.is("mkdir where something is", unix.Mkdir(types, 0o755), unix.Mkdir(types+"/file", 0o755), unix.Mkdir(types+"/symlink", 0o755))
	t.is("mkdir with slashes behind", unix.Mkdir(t.p("slashes")+"//", 0o755), look(t.p("slashes")))
	for _, mode := range []uint32{0o000, 0o755, 0o1777, 0o2755, 0o7777} {
		unix.Umask(0o022)
		err := unix.Mkdir(t.p(fmt.Sprint(mode)), mode)
		unix.Umask(0)
		t.is(fmt.Sprintf("mkdir with mode %o", mode), err, t.mode(t.p(fmt.Sprint(mode))))
	}
	links := t.mkdir("links", 0o755)
	for i := range 10 {
		t.must(unix.Mkdir(fmt.Sprint(links, "/", i), 0o755))
	}
	t.is("links of a directory", t.stat(links).Nlink, unix.Rmdir(links+"/0"), t.stat(links).Nlink)
}

// inotifies: what this side does, this side is told of.
func inotifies(t *T) {
	in, err := unix.InotifyInit1(unix.IN_NONBLOCK)
	t.must(err)
	_, err = unix.InotifyAddWatch(in, t.dir, unix.IN_ALL_EVENTS&^(unix.IN_ACCESS|unix.IN_CLOSE_NOWRITE|unix.IN_OPEN))
	t.is("watch", err)
	t.must(os.WriteFile(t.p("f"), []byte("x"), 0o644))
	t.must(unix.Chmod(t.p("f"), 0o600))
	t.must(unix.Rename(t.p("f"), t.p("g")))
	t.must(unix.Link(t.p("g"), t.p("h")))
	t.must(unix.Unlink(t.p("g")))
	t.must(unix.Mkdir(t.p("d"), 0o755))
	buf := make([]byte, 4096)
	n, err := unix.Read(in, buf)
	t.is("events", err)
	for b := buf[:max(n, 0)]; len(b) >= unix.SizeofInotifyEvent; {
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		name, _, _ := strings.Cut(string(b[unix.SizeofInotifyEvent:size]), "\x00")
		t.is("event", fmt.Sprintf("%#x", binary.NativeEndian.Uint32(b[4:])), name)
		b = b[size:]
	}
	t.must(unix.Close(in))
}

// execs runs copies of this program from the file system.
func execs(t *T) {
	self, err := os.ReadFile("/proc/self/exe")
	t.must(err)
	for _, mode := range []uint32{0o755, 0o4755, 0o2755, 0o6755, 0o700, 0o644, 0o111} {
		path := t.file(fmt.Sprintf("%o", mode), string(self), 0o600)
		t.must(unix.Chown(path, 1000, 2000))
		t.must(unix.Chmod(path, mode))
		for _, u := range users {
			cmd := exec.Command(path, "-child", "whoami")
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(u.uid), Gid: uint32(u.gid)}}
			out, err := cmd.Output()
			var errno error
			if e := unix.Errno(0); errors.As(err, &e) {
				errno = e
			} else if err != nil {
				errno = err
			}
			t.is(fmt.Sprintf("%o by %s", mode, u.name), errno, strings.TrimSpace(string(out)))
		}
	}
	w := t.open(t.p("755"), unix.O_WRONLY)
	t.is("what is open to be written", exec.Command(t.p("755"), "-child", "whoami").Run())
	t.must(unix.Close(w))
	running := exec.Command(t.p("755"), "-child", "flock", t.file("lock", "", 0o644), fmt.Sprint(unix.LOCK_EX))
	in, err := running.StdinPipe()
	t.must(err)
	t.must(running.Start())
	t.is("write what runs", tryOpen(t.p("755"), unix.O_WRONLY, 0))
	t.must(unix.Rename(t.p("755"), t.p("moved")))
	t.is("move what runs", tryOpen(t.p("moved"), unix.O_WRONLY, 0))
	t.must(in.Close())
	t.must(running.Wait())
	t.is("after it", tryOpen(t.p("moved"), unix.O_WRONLY, 0))
	t.must(os.WriteFile(t.p("script"), []byte("#!"+t.p("moved")+" -child\n"), 0o755))
	t.is("a script without an interpreter", tryOpen(t.p("script"), unix.O_RDONLY, 0), errname(unwrapExec(exec.Command("/bin/no such", t.p("script")).Run())))
}

func unwrapExec(err error) error {
	var e unix.Errno
	if errors.As(err, &e) {
		return e
	}
	return err
}
