package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// kinds are what a name can be.
var kinds = []struct {
	name string
	make func(t *T, path string) error
}{
	{"nothing", func(*T, string) error { return nil }},
	{"file", func(_ *T, path string) error {
		return os.WriteFile(path, []byte(path[strings.LastIndexByte(path, '/')+1:]), 0o644)
	}},
	{"empty directory", func(_ *T, path string) error { return unix.Mkdir(path, 0o755) }},
	{"full directory", func(_ *T, path string) error { return os.MkdirAll(path+"/sub", 0o755) }},
	{"symlink", func(_ *T, path string) error { return unix.Symlink("target", path) }},
	{"fifo", func(_ *T, path string) error { return unix.Mkfifo(path, 0o644) }},
}

func renames(t *T) {
	flags := []struct {
		name string
		bits uint
	}{
		{"", 0}, {" NOREPLACE", unix.RENAME_NOREPLACE}, {" EXCHANGE", unix.RENAME_EXCHANGE}, {" WHITEOUT", unix.RENAME_WHITEOUT},
		{" NOREPLACE|EXCHANGE", unix.RENAME_NOREPLACE | unix.RENAME_EXCHANGE},
		{" NOREPLACE|WHITEOUT", unix.RENAME_NOREPLACE | unix.RENAME_WHITEOUT}, {" unknown flag", 1 << 7},
	}
	for _, from := range kinds {
		for _, to := range kinds {
			for _, flag := range flags {
				for _, across := range []string{"", "other/"} {
					dir, err := os.MkdirTemp(t.dir, "")
					t.must(err)
					t.must(unix.Mkdir(dir+"/other", 0o755))
					t.must(from.make(t, dir+"/from"))
					t.must(to.make(t, dir+"/"+across+"to"))
					err = unix.Renameat2(unix.AT_FDCWD, dir+"/from", unix.AT_FDCWD, dir+"/"+across+"to", flag.bits)
					t.is(fmt.Sprint(from.name, " to ", across, to.name, flag.name), err,
						look(dir+"/from"), look(dir+"/"+across+"to"), look(dir), look(dir+"/other"))
					t.must(os.RemoveAll(dir))
				}
			}
		}
	}
}

func renamesMore(t *T) {
	a, b := t.file("a", "one", 0o644), t.p("b")
	t.must(unix.Link(a, b))
	t.is("to a link of the same file", unix.Rename(a, b), look(a), look(b))
	t.is("to itself", unix.Rename(a, a), look(a))
	t.must(os.MkdirAll(t.p("d/sub"), 0o755))
	t.is("into its own subdirectory", unix.Rename(t.p("d"), t.p("d/sub/x")))
	t.is("a subdirectory over its parent", unix.Rename(t.p("d/sub"), t.p("d")))
	t.is("exchange with its own subdirectory", unix.Renameat2(unix.AT_FDCWD, t.p("d"), unix.AT_FDCWD, t.p("d/sub"), unix.RENAME_EXCHANGE))
	t.is("dot", unix.Rename(t.dir+"/d/.", t.p("e")))
	t.is("dot dot", unix.Rename(t.dir+"/d/sub/..", t.p("e")))
	t.is("a file with a slash behind", unix.Rename(a+"/", t.p("e")))
	t.is("a file to a name with a slash behind", unix.Rename(a, t.p("e")+"/"))
	t.is("a directory with slashes behind", unix.Rename(t.p("d")+"/", t.p("e")+"/"), look(t.p("e")))
	t.is("through a file", unix.Rename(a+"/x", t.p("f")))
	t.is("a name of 256 bytes", unix.Rename(a, t.p(strings.Repeat("n", 256))))
	t.is("to a directory that is not there", unix.Rename(a, t.p("none/x")))

	fd := t.open(t.file("open", "before", 0o644), unix.O_RDWR)
	t.must(unix.Rename(t.p("open"), t.p("moved")))
	_, err := unix.Pwrite(fd, []byte("after!"), 0)
	t.is("an open file is written", err, look(t.p("moved")))
	t.file("over", "over", 0o644)
	t.must(unix.Rename(t.p("over"), t.p("moved")))
	buf := make([]byte, 6)
	_, err = unix.Pread(fd, buf, 0)
	t.is("an open file replaced is read", err, string(buf), t.fstat(fd).Nlink)
	t.must(unix.Close(fd))

	was := t.stat(b)
	t.must(unix.Rename(b, t.p("c")))
	is := t.stat(t.p("c"))
	t.is("the inode stays, the modification time too", was.Ino == is.Ino, was.Mtim == is.Mtim, is.Ctim.Nano() >= was.Ctim.Nano())

	// Moving a directory to another one changes its "..": that needs a right to write it.
	t.mkdir("open1", 0o777)
	t.mkdir("open2", 0o777)
	t.mkdir("open1/theirs", 0o755)
	t.as(1000, 1000, nil, func() {
		t.is("somebody's directory within a directory", unix.Rename(t.p("open1/theirs"), t.p("open1/still")))
		t.is("somebody's directory to another directory", unix.Rename(t.p("open1/still"), t.p("open2/moved")))
	})
}
