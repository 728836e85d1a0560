package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

func links(t *T) {
	for _, k := range kinds {
		from, to := t.p("from "+k.name), t.p("to "+k.name)
		t.must(k.make(t, from))
		err := unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, to, 0)
		t.is(k.name, err, look(to))
		if err == nil {
			was, is := t.stat(from), t.stat(to)
			t.is(k.name+" is the same", was.Ino == is.Ino, was.Nlink, is.Nlink, was.Ctim == is.Ctim)
			t.is(k.name+" over what is there", unix.Link(from, to))
			t.must(unix.Unlink(from))
			t.is(k.name+" after the first is gone", look(to), t.stat(to).Nlink)
		}
	}
	f := t.file("f", "f", 0o644)
	t.must(unix.Symlink("f", t.p("s")))
	t.is("follow a symlink", unix.Linkat(unix.AT_FDCWD, t.p("s"), unix.AT_FDCWD, t.p("followed"), unix.AT_SYMLINK_FOLLOW), look(t.p("followed")))
	fd := t.open(f, unix.O_RDONLY)
	t.is("by descriptor", unix.Linkat(fd, "", unix.AT_FDCWD, t.p("by descriptor"), unix.AT_EMPTY_PATH), look(t.p("by descriptor")))
	t.must(unix.Close(fd))
	t.is("slash behind", unix.Link(f, t.p("x")+"/"))
	t.is("a name of 256 bytes", unix.Link(f, t.p(strings.Repeat("n", 256))))
}

func unlinks(t *T) {
	for _, k := range kinds {
		path := t.p(k.name)
		t.must(k.make(t, path))
		t.is("rmdir "+k.name, unix.Rmdir(path), look(path))
		t.is("unlink "+k.name, unix.Unlink(path), look(path))
	}
	t.must(os.MkdirAll(t.p("d/sub"), 0o755))
	t.is("rmdir dot", unix.Rmdir(t.dir+"/d/."))
	t.is("rmdir dot dot", unix.Rmdir(t.dir+"/d/sub/.."))
	t.is("unlink with a slash behind", unix.Unlink(t.file("f", "f", 0o644)+"/"))

	fd := t.open(t.file("open", "content", 0o644), unix.O_RDWR)
	t.must(unix.Unlink(t.p("open")))
	buf := make([]byte, 10)
	n, err := unix.Pread(fd, buf, 0)
	t.is("read what is unlinked", err, string(buf[:n]), t.fstat(fd).Nlink)
	_, err = unix.Pwrite(fd, []byte("more"), 5)
	t.is("write it", err, t.fstat(fd).Size)
	t.is("chmod, chown, truncate, sync it", unix.Fchmod(fd, 0o600), unix.Fchown(fd, 1, 2), unix.Ftruncate(fd, 3), unix.Fsync(fd))
	st := t.fstat(fd)
	t.is("its attributes", st.Size, st.Uid, st.Gid, fmt.Sprintf("%o", st.Mode))
	t.is("its extended attribute", unix.Fsetxattr(fd, "user.a", []byte("b"), 0))
	t.is("link it back", unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, t.p("back"), unix.AT_SYMLINK_FOLLOW))
	again, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDWR, 0)
	t.is("open it again", err)
	n, err = unix.Pread(again, buf, 0)
	t.is("read that", err, string(buf[:max(n, 0)]))
	t.file("open", "another", 0o644)
	n, err = unix.Pread(fd, buf, 0)
	t.is("with a new file of its name", err, string(buf[:n]))
	t.must(unix.Close(fd))

	dir := t.open(t.mkdir("dir", 0o755), unix.O_RDONLY|unix.O_DIRECTORY)
	t.must(unix.Rmdir(t.p("dir")))
	t.is("create in a removed directory", func() error { _, err := unix.Openat(dir, "x", unix.O_CREAT|unix.O_RDWR, 0o644); return err }())
	t.is("mkdir in a removed directory", unix.Mkdirat(dir, "x", 0o755))
	t.is("a removed directory's links", t.fstat(dir).Nlink)
	t.must(unix.Close(dir))
}

func tmpfiles(t *T) {
	fd, err := unix.Open(t.dir, unix.O_TMPFILE|unix.O_RDWR, 0o640)
	t.is("open", err)
	if err != nil {
		return
	}
	_, err = unix.Write(fd, []byte("content"))
	st := t.fstat(fd)
	t.is("write", err, st.Nlink, st.Size, fmt.Sprintf("%o", st.Mode))
	t.is("chmod and extended attribute", unix.Fchmod(fd, 0o604), unix.Fsetxattr(fd, "user.a", []byte("b"), 0))
	t.is("link", unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, t.p("named"), unix.AT_SYMLINK_FOLLOW),
		look(t.p("named")), t.mode(t.p("named")))
	t.is("link again, by descriptor", unix.Linkat(fd, "", unix.AT_FDCWD, t.p("twice"), unix.AT_EMPTY_PATH), look(t.p("twice")))
	t.is("link over", unix.Linkat(fd, "", unix.AT_FDCWD, t.p("twice"), unix.AT_EMPTY_PATH))
	t.must(unix.Close(fd))
	fd, err = unix.Open(t.dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_EXCL, 0o640)
	t.is("open exclusively", err)
	t.is("link that", unix.Linkat(fd, "", unix.AT_FDCWD, t.p("exclusive"), unix.AT_EMPTY_PATH))
	t.must(unix.Close(fd))
	t.is("open read-only", tryOpen(t.dir, unix.O_TMPFILE|unix.O_RDONLY, 0o644))
	t.is("open in a file", tryOpen(t.p("named"), unix.O_TMPFILE|unix.O_RDWR, 0o644))
	t.mkdir("theirs", 0o777)
	t.as(1000, 1001, nil, func() {
		fd, err := unix.Open(t.p("theirs"), unix.O_TMPFILE|unix.O_RDWR, 0o600)
		t.is("open as a user", err)
		st := t.fstat(fd)
		t.is("the user's", st.Uid, st.Gid, unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/thread-self/fd/%d", fd), unix.AT_FDCWD, t.p("theirs/x"), unix.AT_SYMLINK_FOLLOW))
		t.is("in a directory of others", tryOpen(t.dir, unix.O_TMPFILE|unix.O_RDWR, 0o600))
	})
}

func opens(t *T) {
	f := t.file("f", "content", 0o644)
	for _, k := range kinds {
		t.must(k.make(t, t.p(k.name)))
		for _, c := range []struct {
			name  string
			flags int
		}{
			{"read", unix.O_RDONLY}, {"write", unix.O_WRONLY}, {"truncate", unix.O_WRONLY | unix.O_TRUNC},
			{"directory", unix.O_DIRECTORY}, {"no follow", unix.O_NOFOLLOW}, {"path, no follow", unix.O_PATH | unix.O_NOFOLLOW},
			{"exclusively", unix.O_RDWR | unix.O_CREAT | unix.O_EXCL}, {"create", unix.O_RDWR | unix.O_CREAT}, {"create directory", unix.O_CREAT | unix.O_DIRECTORY},
		} {
			t.is(fmt.Sprint(c.name, " ", k.name), tryOpen(t.p(k.name), c.flags|unix.O_NONBLOCK, 0o644), look(t.p(k.name)))
			if k.name == "nothing" {
				_ = unix.Unlink(t.p(k.name))
			}
			if k.name == "symlink" {
				_ = unix.Unlink(t.p("target"))
			}
		}
	}
	t.is("slash behind a file", tryOpen(f+"/", unix.O_RDONLY, 0))
	t.is("slash behind nothing, create", tryOpen(t.p("none")+"/", unix.O_RDWR|unix.O_CREAT, 0o644))
	t.is("through a file", tryOpen(f+"/x", unix.O_RDONLY, 0))
	t.is("read-only, truncate", tryOpen(f, unix.O_RDONLY|unix.O_TRUNC, 0), look(f))
	for _, mode := range []uint32{0o000, 0o400, 0o644, 0o777, 0o4755, 0o2755, 0o1777, 0o7777} {
		path := t.p(fmt.Sprintf("mode %o", mode))
		unix.Umask(0o027)
		err := tryOpen(path, unix.O_CREAT|unix.O_WRONLY, mode)
		unix.Umask(0)
		t.is(fmt.Sprintf("create with mode %o and umask 027", mode), err, t.mode(path))
	}
	// A file without any right is its creator's to write.
	fd, err := unix.Open(t.p("mute"), unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0)
	t.must(err)
	_, err = unix.Write(fd, []byte("said"))
	t.is("write what has no mode", err, t.fstat(fd).Size)
	t.must(unix.Close(fd))
	fd = t.open(f, unix.O_RDONLY)
	_, err = unix.Write(fd, []byte("x"))
	t.is("write what is open to be read", err)
	t.is("sync", unix.Fsync(fd), unix.Fdatasync(fd), unix.Syncfs(fd))
	_, err = unix.Seek(fd, -1, unix.SEEK_SET)
	t.is("seek before the beginning", err)
	_, err = unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	t.is("ioctl for flags", err)
	t.must(unix.Close(fd))
	fd = t.open(t.dir, unix.O_RDONLY)
	_, err = unix.Read(fd, make([]byte, 1))
	t.is("read a directory", err, unix.Fsync(fd))
	t.must(unix.Close(fd))
	fd, err = unix.Open(t.p("direct"), unix.O_CREAT|unix.O_RDWR|unix.O_DIRECT, 0o644)
	t.is("direct I/O", err)
	if err == nil {
		t.must(unix.Close(fd))
	}
}

func mknods(t *T) {
	for _, c := range []struct {
		name string
		mode uint32
		dev  int
	}{
		{"file", unix.S_IFREG | 0o640, 0}, {"file without a type", 0o640, 0}, {"fifo", unix.S_IFIFO | 0o620, 0}, {"socket", unix.S_IFSOCK | 0o600, 0},
		{"whiteout", unix.S_IFCHR, 0}, {"null", unix.S_IFCHR | 0o666, int(unix.Mkdev(1, 3))}, {"disk", unix.S_IFBLK | 0o660, int(unix.Mkdev(7, 0))},
		{"directory", unix.S_IFDIR | 0o755, 0},
	} {
		err, mode := unix.Mknod(t.p(c.name), c.mode, c.dev), ""
		if err == nil {
			mode = t.mode(t.p(c.name))
		}
		t.is(c.name, err, look(t.p(c.name)), mode, unix.Mknod(t.p(c.name), c.mode, c.dev))
	}
	t.mkdir("theirs", 0o777)
	t.as(1000, 1000, nil, func() {
		t.is("a user's device", unix.Mknod(t.p("theirs/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		t.is("a user's fifo", unix.Mkfifo(t.p("theirs/fifo"), 0o600), t.stat(t.p("theirs/fifo")).Uid)
	})
	// What goes through a fifo stays in the kernel.
	r := t.open(t.p("fifo"), unix.O_RDONLY|unix.O_NONBLOCK)
	w := t.open(t.p("fifo"), unix.O_WRONLY)
	_, err := unix.Write(w, []byte("through"))
	buf := make([]byte, 10)
	n, rerr := unix.Read(r, buf)
	t.is("fifo works", err, rerr, string(buf[:max(n, 0)]))
	// And a socket's address is its name.
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	t.must(err)
	t.must(os.Chdir(t.dir))
	t.is("bind", unix.Bind(s, &unix.SockaddrUnix{Name: "bound"}), look("bound"), unix.Listen(s, 1))
	c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	t.must(err)
	t.is("connect", unix.Connect(c, &unix.SockaddrUnix{Name: "bound"}))
	t.must(os.Chdir("/"))
}

func symlinks(t *T) {
	for _, target := range []string{"x", "", "/", "..", strings.Repeat("t", 255), strings.Repeat("long/", 800), strings.Repeat("l", 4095), strings.Repeat("l", 4096)} {
		path := t.p(fmt.Sprint("to ", len(target)))
		err := unix.Symlink(target, path)
		t.is(fmt.Sprint("target of ", len(target), " bytes"), err)
		if err == nil {
			got, err := os.Readlink(path)
			st := t.stat(path)
			t.is("read it", err, got == target, st.Size, fmt.Sprintf("%o", st.Mode))
			_ = unix.Unlink(path)
		}
	}
	f := t.file("f", "f", 0o644)
	t.is("over a file", unix.Symlink("x", f))
	_, err := os.Readlink(f)
	t.is("read a file as a link", err)
	t.must(unix.Symlink("f", t.p("s0")))
	for i := range 45 {
		t.must(unix.Symlink(fmt.Sprintf("s%d", i), t.p(fmt.Sprintf("s%d", i+1))))
	}
	t.is("forty links", tryOpen(t.p("s39"), unix.O_RDONLY, 0))
	t.is("forty-one links", tryOpen(t.p("s40"), unix.O_RDONLY, 0))
	t.must(unix.Symlink("dangling target", t.p("dangling")))
	t.is("create through a dangling one", tryOpen(t.p("dangling"), unix.O_CREAT|unix.O_WRONLY, 0o644), look(t.p("dangling target")))
	t.is("chown of the link itself", unix.Lchown(t.p("s0"), 7, 8), t.stat(t.p("s0")).Uid, t.stat(f).Uid)
	t.is("chmod of the link itself", unix.Fchmodat(unix.AT_FDCWD, t.p("s0"), 0o600, unix.AT_SYMLINK_NOFOLLOW))
	fd := t.open(t.p("s0"), unix.O_PATH|unix.O_NOFOLLOW)
	buf := make([]byte, 10)
	n, err := unix.Readlinkat(fd, "", buf)
	t.is("read by descriptor", err, string(buf[:max(n, 0)]))
	t.mkdir("d", 0o755)
	t.must(unix.Symlink("d", t.p("sd")))
	t.is("a directory's, slash behind", look(t.p("sd")), unix.Rmdir(t.p("sd")+"/"), tryOpen(t.p("sd")+"/", unix.O_RDONLY, 0))
	t.is("unlink", unix.Unlink(t.p("sd")), look(t.p("d")))
}

func names(t *T) {
	for _, c := range []struct{ what, name string }{
		{"255 bytes", strings.Repeat("n", 255)}, {"256 bytes", strings.Repeat("n", 256)}, {"255 bytes of UTF-8", strings.Repeat("ä", 127) + "x"},
		{"256 bytes of UTF-8", strings.Repeat("ä", 128)}, {"not UTF-8", "\xff\xfe\x80"}, {"line break", "a\nb"}, {"blank", " "}, {"backslash", `\`}, {"three dots", "..."},
		{"what overlayfs uses", ".wh.x"},
	} {
		t.is(c.what+", mkdir", unix.Mkdir(t.p(c.name), 0o755))
		t.is(c.what+", look up", look(t.p(c.name)))
		t.is(c.what+", file in it", tryOpen(t.p(c.name)+"/f", unix.O_CREAT|unix.O_WRONLY, 0o644))
		entries, err := os.ReadDir(t.dir)
		found := false
		for _, e := range entries {
			found = found || e.Name() == c.name
		}
		t.is(c.what+", list", err, found)
		_ = os.RemoveAll(t.p(c.name))
	}
	var every bytes.Buffer
	for b := 1; b < 256; b++ {
		if b != '/' {
			every.WriteByte(byte(b))
		}
	}
	t.is("every byte", tryOpen(t.p(every.String()), unix.O_CREAT|unix.O_WRONLY, 0o644))
	entries, _ := os.ReadDir(t.dir)
	t.is("every byte, list", len(entries) == 1 && entries[0].Name() == every.String())
	t.is("empty", tryOpen("", unix.O_RDONLY, 0))

	// Deeper than a path can tell.
	dir := t.open(t.mkdir("deep", 0o755), unix.O_PATH)
	name, depth := strings.Repeat("d", 250), 0
	for ; depth < 40; depth++ {
		if err := unix.Mkdirat(dir, name, 0o755); err != nil {
			t.is("deep mkdir", depth, err)
			break
		}
		next, err := unix.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY, 0)
		t.must(err)
		_ = unix.Close(dir)
		dir = next
	}
	fd, err := unix.Openat(dir, "bottom", unix.O_CREAT|unix.O_WRONLY, 0o644)
	t.is("forty directories deep", depth, err)
	_ = unix.Close(fd)
	t.is("a path that is too long", tryOpen(t.p("deep")+strings.Repeat("/"+name, 17), unix.O_RDONLY, 0))
	t.is("remove it all", os.RemoveAll(t.p("deep")))
}
