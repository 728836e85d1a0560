package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// sum is a file's size, and a part of its content's hash.
func sum(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return errname(err)
	}
	return fmt.Sprintf("%d,%.8x", len(b), sha256.Sum256(b))
}

// pattern is n bytes that show where they belong.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i/97 + i*7 + 1)
	}
	return b
}

// chart lists where data and holes begin.
func chart(fd int) string {
	s, pos := "", int64(0)
	for range 20 {
		data, err := unix.Seek(fd, pos, unix.SEEK_DATA)
		if err != nil {
			return s + " " + errname(err)
		}
		hole, err := unix.Seek(fd, data, unix.SEEK_HOLE)
		if err != nil {
			return s + " " + errname(err)
		}
		s += fmt.Sprintf(" %dK-%dK", data>>10, hole>>10)
		pos = hole
	}
	return s
}

const unit = 64 << 10 // larger than any block or page

func sparse(t *T) {
	fd, err := unix.Open(t.p("f"), unix.O_CREAT|unix.O_RDWR, 0o644)
	t.must(err)
	for _, at := range []int64{2, 3, 7} {
		_, err = unix.Pwrite(fd, pattern(unit), at*unit)
		t.must(err)
	}
	t.is("grow", unix.Ftruncate(fd, 12*unit), unix.Fsync(fd))
	t.is("chart", chart(fd), t.fstat(fd).Blocks*512/unit)
	t.is("content", sum(t.p("f")))
	for _, c := range []struct {
		off    int64
		whence int
	}{{0, unix.SEEK_DATA}, {0, unix.SEEK_HOLE}, {2 * unit, unix.SEEK_HOLE}, {2*unit + 5, unix.SEEK_DATA}, {12 * unit, unix.SEEK_DATA}, {12 * unit, unix.SEEK_HOLE},
		{8 * unit, unix.SEEK_DATA}, {8*unit + 1, unix.SEEK_HOLE}, {-1, unix.SEEK_DATA}, {0, 9}} {
		pos, err := unix.Seek(fd, c.off, c.whence)
		t.is(fmt.Sprintf("seek %d whence %d", c.off, c.whence), err, pos)
	}
	_, err = unix.Pwrite(fd, []byte("x"), 1<<40)
	t.is("a terabyte away", err, t.fstat(fd).Size, t.fstat(fd).Blocks < 10000)
	t.is("back", unix.Ftruncate(fd, 0), t.fstat(fd).Blocks)
	t.must(unix.Close(fd))
}

func fallocates(t *T) {
	modes := []struct {
		name string
		bits uint32
	}{
		{"plain", 0}, {"keep size", unix.FALLOC_FL_KEEP_SIZE}, {"punch", unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE},
		{"punch without keep size", unix.FALLOC_FL_PUNCH_HOLE}, {"zero", unix.FALLOC_FL_ZERO_RANGE}, {"zero, keep size", unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE},
		{"collapse", unix.FALLOC_FL_COLLAPSE_RANGE}, {"insert", unix.FALLOC_FL_INSERT_RANGE}, {"unshare", unix.FALLOC_FL_UNSHARE_RANGE}, {"unknown", 1 << 20},
	}
	for _, m := range modes {
		for _, r := range [][2]int64{{unit, 2 * unit}, {100, 1000}, {3*unit + 5, 4 * unit}, {10 * unit, unit}, {0, 0}, {-1, 10}, {5, -5}} {
			fd, err := unix.Open(t.p("f"), unix.O_CREAT|unix.O_RDWR|unix.O_TRUNC, 0o644)
			t.must(err)
			_, err = unix.Write(fd, pattern(6*unit))
			t.must(err)
			err = unix.Fallocate(fd, m.bits, r[0], r[1])
			t.must(unix.Fsync(fd))
			t.is(fmt.Sprintf("%s %d+%d", m.name, r[0], r[1]), err, sum(t.p("f")), t.fstat(fd).Blocks*512/unit)
			if m.bits != 0 {
				t.is(fmt.Sprintf("%s %d+%d charts", m.name, r[0], r[1]), chart(fd))
			}
			t.must(unix.Close(fd))
		}
	}
	fd := t.open(t.file("ro", "x", 0o644), unix.O_RDONLY)
	t.is("open to be read", unix.Fallocate(fd, 0, 0, 10))
	t.must(unix.Close(fd))
	fd = t.open(t.dir, unix.O_RDONLY)
	t.is("a directory", unix.Fallocate(fd, 0, 0, 10))
	t.must(unix.Close(fd))
}

func mmaps(t *T) {
	page := os.Getpagesize()
	path := t.file("f", string(pattern(3*page+100)), 0o644)
	fd := t.open(path, unix.O_RDWR)
	shared, err := unix.Mmap(fd, 0, 4*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	t.is("shared", err)
	private, err := unix.Mmap(fd, 0, 4*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	t.is("private", err)
	buf := make([]byte, 8)
	copy(shared, "mapped")
	_, err = unix.Pread(fd, buf, 0)
	t.is("a shared mapping's change is read", err, string(buf[:6]))
	_, err = unix.Pwrite(fd, []byte("written"), int64(page))
	t.is("a write is in the shared mapping", err, string(shared[page:page+7]))
	copy(private[2*page:], "own")
	_, err = unix.Pread(fd, buf, int64(2*page))
	t.is("a private mapping's change is its own", err, string(buf[:3]) == "own", string(shared[2*page:2*page+3]) == "own")
	t.is("after the end are zeros", shared[3*page+100], shared[4*page-1])
	shared[3*page+200] = 'x'
	t.is("what is written there is lost", unix.Msync(shared, unix.MS_SYNC), sum(path))
	other, err := unix.Open(path, unix.O_RDONLY, 0)
	t.must(err)
	copy(shared[10:], "again")
	_, err = unix.Pread(other, buf, 10)
	t.is("another descriptor reads it", err, string(buf[:5]))
	t.is("another process reads it", run("read", path, "10", "5"))
	t.is("another process maps and changes it", run("map", path, "20", "theirs"), string(shared[20:26]))
	t.is("and writes it", run("write", path, "30", "theirs"), string(shared[30:36]))

	// touch reads a byte of the mapping, whatever that leads to.
	touch := func(i int) (found any) {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		defer func() {
			if recover() != nil {
				found = "fault"
			}
		}()
		return shared[i]
	}
	t.is("shrunk below it", unix.Ftruncate(fd, int64(page)), touch(0), touch(page), touch(2*page))
	t.is("grown again", unix.Ftruncate(fd, int64(4*page)), touch(page), touch(3*page))
	t.must(unix.Unlink(path))
	copy(shared[page:], "unlinked")
	_, err = unix.Pread(fd, buf, int64(page))
	t.is("of what is unlinked", err, string(buf))
	t.must(unix.Close(fd))
	copy(shared[page:], "closed")
	_, err = unix.Pread(other, buf, int64(page))
	t.is("of what is closed", err, string(buf[:6]))
	t.is("unmap", unix.Munmap(shared), unix.Munmap(private))
	t.must(unix.Close(other))

	ro := t.open(t.file("ro", "content", 0o644), unix.O_RDONLY)
	_, err = unix.Mmap(ro, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	t.is("to write what is open to be read", err)
	m, err := unix.Mmap(ro, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	t.is("privately", err, string(m[:7]))
	wo := t.open(t.p("ro"), unix.O_WRONLY)
	_, err = unix.Mmap(wo, 0, page, unix.PROT_READ, unix.MAP_SHARED)
	t.is("to read what is open to be written", err)
	d := t.open(t.dir, unix.O_RDONLY)
	_, err = unix.Mmap(d, 0, page, unix.PROT_READ, unix.MAP_SHARED)
	t.is("a directory", err)
}

func copies(t *T) {
	path := t.file("from", string(pattern(3*unit)), 0o644)
	from, ro := t.open(path, unix.O_RDWR), t.open(path, unix.O_RDONLY)
	to, err := unix.Open(t.p("to"), unix.O_CREAT|unix.O_RDWR, 0o644)
	t.must(err)
	app, err := unix.Open(t.p("append"), unix.O_CREAT|unix.O_WRONLY|unix.O_APPEND, 0o644)
	t.must(err)
	dir := t.open(t.dir, unix.O_RDONLY)
	for _, c := range []struct {
		name    string
		in, out int
		at, to  int64
		n       int
		flags   int
	}{
		{"all", from, to, 0, 0, 3 * unit, 0}, {"more than there is", from, to, 0, 0, 10 * unit, 0}, {"from the end", from, to, 3 * unit, 0, 10, 0},
		{"beyond the end", from, to, 9 * unit, 0, 10, 0}, {"odd offsets", from, to, 11, 7, 1000, 0}, {"leaving a hole", from, to, 0, 20 * unit, 10, 0},
		{"within a file", from, from, 0, 2 * unit, unit, 0}, {"over itself", from, from, 0, 10, 100, 0}, {"flags", from, to, 0, 0, 10, 1},
		{"nothing", from, to, 0, 0, 0, 0}, {"to what is open to be read", from, ro, 0, 0, 10, 0}, {"to what is appended to", from, app, 0, 0, 10, 0},
		{"from what is open to be written", app, to, 0, 0, 10, 0}, {"from a directory", dir, to, 0, 0, 10, 0}, {"to a directory", from, dir, 0, 0, 10, 0},
	} {
		in, out, done := c.at, c.to, 0
		var err error
		for n := c.n; ; { // a call may do less
			k := 0
			if k, err = unix.CopyFileRange(c.in, &in, c.out, &out, n, c.flags); err != nil || k == 0 {
				break
			}
			done += k
			if n -= k; n == 0 {
				break
			}
		}
		t.is(c.name, err, done, in-c.at, out-c.to, sum(t.p("from")), sum(t.p("to")))
	}
	off := int64(5)
	n, err := unix.Sendfile(to, from, &off, 100)
	t.is("sendfile", err, n, off)
	t.is("after it", sum(t.p("to")))
}

func truncates(t *T) {
	path := t.file("f", "0123456789", 0o644)
	fd := t.open(path, unix.O_RDWR)
	was := t.stat(path)
	settle()
	for _, n := range []int64{20, 5, 5, 0, 1 << 40, 7, -1, 1<<63 - 1} {
		t.is(fmt.Sprint("to ", n), unix.Truncate(path, n), t.stat(path).Size)
		t.is(fmt.Sprint("by descriptor to ", n), unix.Ftruncate(fd, n), t.fstat(fd).Size)
		if t.stat(path).Size < 100 {
			t.is("content", look(path))
		}
	}
	is := t.stat(path)
	t.is("times", is.Mtim.Nano() > was.Mtim.Nano(), is.Ctim.Nano() > was.Ctim.Nano())
	t.is("a directory", unix.Truncate(t.dir, 0))
	t.is("nothing", unix.Truncate(t.p("none"), 0))
	t.must(unix.Symlink("f", t.p("s")))
	t.is("through a link", unix.Truncate(t.p("s"), 2), look(path))
	ro := t.open(path, unix.O_RDONLY)
	t.is("what is open to be read", unix.Ftruncate(ro, 1))
	_, err := unix.Pwrite(fd, []byte("end"), 10)
	t.is("a write beyond the end", err, fmt.Sprintf("%q", mustRead(path)))
	t.must(unix.Fchmod(fd, 0))
	t.as(1000, 1000, nil, func() {
		t.is("by descriptor, without the right", unix.Ftruncate(fd, 1), t.fstat(fd).Size)
		t.is("by name, without the right", unix.Truncate(path, 0))
	})
}

func mustRead(path string) []byte {
	b, _ := os.ReadFile(path)
	return b
}

// settle waits until what changes next has another time: file systems count in ticks.
func settle() { time.Sleep(20 * time.Millisecond) }

func appends(t *T) {
	path := t.file("f", "", 0o644)
	a, b := t.open(path, unix.O_WRONLY|unix.O_APPEND), t.open(path, unix.O_WRONLY|unix.O_APPEND)
	for _, c := range []struct {
		fd int
		s  string
	}{{a, "one "}, {b, "two "}, {a, "three "}, {b, "four "}} {
		_, err := unix.Write(c.fd, []byte(c.s))
		t.is("write", err, look(path))
	}
	_, err := unix.Pwrite(a, []byte("at"), 0)
	t.is("an offset means nothing", err, string(mustRead(path)))
	t.must(unix.Ftruncate(b, 3))
	_, err = unix.Write(a, []byte("+"))
	t.is("after truncate", err, look(path))
	plain := t.open(path, unix.O_WRONLY)
	_, err = unix.FcntlInt(uintptr(plain), unix.F_SETFL, unix.O_APPEND)
	_, werr := unix.Write(plain, []byte("later"))
	t.is("flag set later", err, werr, look(path))
	_, err = unix.FcntlInt(uintptr(plain), unix.F_SETFL, 0)
	_, werr = unix.Pwrite(plain, []byte("L"), 0)
	t.is("flag taken back", err, werr, look(path))

	// Records of many writers, in two processes, stay whole.
	const writers, each = 4, 100
	log := t.file("log", "", 0o644)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			_ = run("append", log, fmt.Sprintf("writer %d says what takes a while\n", w), fmt.Sprint(each))
		})
	}
	wg.Wait()
	count := map[string]int{}
	for _, line := range lines(string(mustRead(log))) {
		count[line]++
	}
	t.is("from four processes", len(count), count["writer 0 says what takes a while"], count["writer 3 says what takes a while"])
}
