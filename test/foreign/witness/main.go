// Command witness is all that containers of package foreign's tests run: it says what it finds around it. It is
// built for the guest's architecture, static.
//
//	witness report           the machine and its byte order, then 20000 numbered lines; exits with 42
//	witness exit N
//	witness wait             until it is killed
//	witness open FLAG=PATH…  opens each, FLAG being r, w or rw; says how that went, a line each
//	witness crash            has the kernel panic
//	witness eat              takes memory until it is stopped
package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lines is how much a report says after its first line.
const lines = 20000

func main() {
	switch os.Args[1] {
	case "report":
		report()
		os.Exit(42)
	case "exit":
		code, err := strconv.Atoi(os.Args[2])
		if err != nil {
			panic(err)
		}
		os.Exit(code)
	case "wait":
		time.Sleep(math.MaxInt64)
	case "open":
		for _, arg := range os.Args[2:] {
			open(arg)
		}
	case "crash":
		if err := os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0); err != nil {
			panic(err)
		}
	case "eat":
		eat()
	default:
		fmt.Fprintln(os.Stderr, "witness: unknown task", os.Args[1])
		os.Exit(2)
	}
}

func report() {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		panic(err)
	}
	order := "little-endian"
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		order = "big-endian"
	}
	out := bufio.NewWriter(os.Stdout)
	fmt.Fprintln(out, unix.ByteSliceToString(uts.Machine[:]), order)
	for i := range lines {
		fmt.Fprintln(out, "line", i)
	}
	if err := out.Flush(); err != nil {
		panic(err)
	}
}

func open(arg string) {
	flag, path, _ := strings.Cut(arg, "=")
	flags := map[string]int{"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR}[flag]
	f, err := os.OpenFile(path, flags, 0)
	if err == nil {
		_ = f.Close()
		fmt.Println(arg, "ok")
		return
	}
	var errno unix.Errno
	errors.As(err, &errno)
	fmt.Println(arg, unix.ErrnoName(errno))
}

// eat touches every page, so that it counts.
func eat() {
	const step = 1 << 20
	for {
		p, err := unix.Mmap(-1, 0, step, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			panic(err)
		}
		for i := 0; i < step; i += os.Getpagesize() {
			p[i] = 1
		}
	}
}
