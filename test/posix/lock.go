package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

func flocks(t *T) {
	path := t.file("f", "x", 0o644)
	names := map[int]string{unix.LOCK_SH: "shared", unix.LOCK_EX: "exclusive"}
	for _, mine := range []int{unix.LOCK_SH, unix.LOCK_EX} {
		for _, theirs := range []int{unix.LOCK_SH, unix.LOCK_EX} {
			fd := t.open(path, unix.O_RDWR)
			h := t.hold("flock", path, fmt.Sprint(theirs|unix.LOCK_NB))
			t.is(fmt.Sprintf("%s with another's %s", names[mine], names[theirs]), h.says, unix.Flock(fd, mine|unix.LOCK_NB))
			h.end()
			t.is("after its end", unix.Flock(fd, mine|unix.LOCK_NB))
			t.is("the other way round", run("flock", path, fmt.Sprint(theirs|unix.LOCK_NB)))
			dup, err := unix.Dup(fd)
			t.must(err)
			t.must(unix.Close(fd))
			t.is("a duplicate holds it", run("flock", path, fmt.Sprint(unix.LOCK_EX|unix.LOCK_NB)))
			t.is("convert", unix.Flock(dup, unix.LOCK_EX|unix.LOCK_NB), unix.Flock(dup, unix.LOCK_SH|unix.LOCK_NB))
			t.is("unlock", unix.Flock(dup, unix.LOCK_UN), run("flock", path, fmt.Sprint(unix.LOCK_EX|unix.LOCK_NB)))
			t.must(unix.Close(dup))
		}
	}
	// Waiting: the other's end lets this go on.
	fd := t.open(path, unix.O_RDWR)
	h := t.hold("flock", path, fmt.Sprint(unix.LOCK_EX))
	done := make(chan error)
	go func() { done <- unix.Flock(fd, unix.LOCK_EX) }()
	h.end()
	t.is("waited for", <-done)
	d := t.open(t.dir, unix.O_RDONLY)
	t.is("of a directory", unix.Flock(d, unix.LOCK_EX|unix.LOCK_NB))
}

func locks(t *T, set, wait, get int) {
	path := t.file("f", "0123456789", 0o644)
	fd := t.open(path, unix.O_RDWR)
	lock := func(command int, typ int16, start, n int64) (unix.Flock_t, error) {
		l := unix.Flock_t{Type: typ, Start: start, Len: n}
		err := unix.FcntlFlock(uintptr(fd), command, &l)
		l.Pid = 0 // or -1
		return l, err
	}
	other := func(typ int, start, n int64) string {
		return run("lock", path, fmt.Sprint(set), fmt.Sprint(typ), fmt.Sprint(start), fmt.Sprint(n))
	}
	for _, mine := range []int16{unix.F_RDLCK, unix.F_WRLCK} {
		_, err := lock(set, mine, 10, 10)
		t.is(fmt.Sprint("set ", mine), err)
		for _, r := range [][2]int64{{0, 10}, {0, 11}, {19, 1}, {20, 5}, {0, 0}, {12, 3}} {
			t.is(fmt.Sprint("another's ", r), other(unix.F_RDLCK, r[0], r[1]), other(unix.F_WRLCK, r[0], r[1]))
		}
		_, err = lock(set, unix.F_UNLCK, 13, 2)
		t.is("open a gap", err, other(unix.F_WRLCK, 13, 2), other(unix.F_WRLCK, 12, 2), other(unix.F_WRLCK, 15, 1))
		_, err = lock(set, unix.F_UNLCK, 0, 0)
		t.is("unlock all", err, other(unix.F_WRLCK, 0, 0))
	}
	h := t.hold("lock", path, fmt.Sprint(set), fmt.Sprint(unix.F_WRLCK), "5", "5")
	l, err := lock(get, unix.F_RDLCK, 0, 0)
	t.is("who is in the way", h.says, err, l.Type, l.Start, l.Len)
	_, err = lock(set, unix.F_RDLCK, 9, 1)
	t.is("in the way", err)
	_, err = lock(set, unix.F_WRLCK, 10, 0)
	t.is("beside it", err)
	done := make(chan error)
	go func() {
		_, err := lock(wait, unix.F_WRLCK, 0, 10)
		done <- err
	}()
	h.end()
	t.is("waited for", <-done)
	_, err = lock(set, unix.F_WRLCK, -5, 2)
	t.is("before the beginning", err)
	again := t.open(path, unix.O_RDWR)
	t.must(unix.Close(again))
	t.is("another descriptor of the process was closed", other(unix.F_WRLCK, 0, 0))
	ro := t.open(path, unix.O_RDONLY)
	l2 := unix.Flock_t{Type: unix.F_WRLCK, Len: 1}
	t.is("a write lock of what is open to be read", unix.FcntlFlock(uintptr(ro), set, &l2))
}

func posixLocks(t *T) { locks(t, unix.F_SETLK, unix.F_SETLKW, unix.F_GETLK) }
func ofdLocks(t *T)   { locks(t, unix.F_OFD_SETLK, unix.F_OFD_SETLKW, unix.F_OFD_GETLK) }
