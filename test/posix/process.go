package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// run has another process of this program do something, and returns what it prints.
func run(what string, args ...string) string {
	out, err := command(what, args...).CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%s: %v", out, err)
	}
	return strings.TrimSuffix(string(out), "\n")
}

func command(what string, args ...string) *exec.Cmd {
	return exec.Command("/proc/self/exe", append([]string{"-child", what}, args...)...)
}

// lines are those of a text, without an empty one at its end.
func lines(s string) []string { return strings.Split(strings.TrimSuffix(s, "\n"), "\n") }

func sorted(s []string) []string {
	slices.Sort(s)
	return s
}

// child is what run runs.
func child(what string, args []string) {
	number := func(i int) int64 {
		n, err := strconv.ParseInt(args[i], 0, 64)
		if err != nil {
			panic(err)
		}
		return n
	}
	say := func(err error, values ...any) {
		t := "ok"
		if err != nil {
			t = errname(err)
		}
		fmt.Println(append([]any{t}, values...)...)
	}
	if what == "whoami" {
		fmt.Println(os.Getuid(), os.Geteuid(), os.Getgid(), os.Getegid())
		return
	}
	flags := unix.O_RDWR
	if what == "append" {
		flags |= unix.O_APPEND
	}
	fd, err := unix.Open(args[0], flags, 0)
	if err != nil {
		say(err)
		return
	}
	switch what {
	case "read": // PATH OFFSET LENGTH
		b := make([]byte, number(2))
		n, err := unix.Pread(fd, b, number(1))
		say(err, string(b[:max(n, 0)]))
	case "write": // PATH OFFSET TEXT
		_, err := unix.Pwrite(fd, []byte(args[2]), number(1))
		say(err)
	case "map": // PATH OFFSET TEXT
		m, err := unix.Mmap(fd, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err == nil {
			copy(m[number(1):], args[2])
		}
		say(err)
	case "append": // PATH TEXT TIMES
		for range number(2) {
			if _, err := unix.Write(fd, []byte(args[1])); err != nil {
				say(err)
			}
		}
	case "flock": // PATH HOW
		say(unix.Flock(fd, int(number(1))))
		hold()
	case "lock": // PATH COMMAND TYPE START LENGTH
		l := unix.Flock_t{Type: int16(number(2)), Start: number(3), Len: number(4)}
		err := unix.FcntlFlock(uintptr(fd), int(number(1)), &l)
		say(err, l.Type, l.Start, l.Len)
		hold()
	}
}

// hold keeps what the process has until its input ends.
func hold() { _, _ = io.Copy(io.Discard, os.Stdin) }

// holder is another process that holds a lock, or failed to get it.
type holder struct {
	cmd  *exec.Cmd
	in   io.Closer
	out  io.Reader
	says string
}

func (t *T) hold(what string, args ...string) *holder {
	h := &holder{cmd: command(what, args...)}
	in, err := h.cmd.StdinPipe()
	t.must(err)
	out, err := h.cmd.StdoutPipe()
	t.must(err)
	h.in, h.out = in, out
	t.must(h.cmd.Start())
	line := []byte{}
	for b := make([]byte, 1); ; {
		if _, err := h.out.Read(b); err != nil || b[0] == '\n' {
			break
		}
		line = append(line, b[0])
	}
	h.says = string(line)
	return h
}

func (h *holder) end() {
	_ = h.in.Close()
	_ = h.cmd.Wait()
}
