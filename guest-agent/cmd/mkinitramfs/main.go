// Command mkinitramfs writes the guest's initramfs: an uncompressed cpio archive in the "newc" format of
// Documentation/driver-api/early-userspace/buffer-format.rst, with the agent as /init. The same input gives the
// same bytes.
//
//	mkinitramfs -init bin/husk-agent -o bin/initramfs.cpio
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

func main() {
	initPath := flag.String("init", "", "the agent's executable, static")
	out := flag.String("o", "", "where to write the archive")
	flag.Parse()
	if *initPath == "" || *out == "" || flag.NArg() != 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*initPath, *out); err != nil {
		fmt.Fprintln(os.Stderr, "mkinitramfs:", err)
		os.Exit(1)
	}
}

// run writes beside the target and renames: a VM that has the old archive open keeps it.
func run(initPath, out string) error {
	agent, err := os.ReadFile(initPath)
	if err != nil {
		return fmt.Errorf("read agent: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(out), ".initramfs-*")
	if err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	defer os.Remove(tmp.Name())
	w := bufio.NewWriter(tmp)
	err = write(w, agent)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = tmp.Chmod(0o644)
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	return os.Rename(tmp.Name(), out)
}

// File types and modes of the entries.
const (
	directory = 0o040755
	device    = 0o020600
	null      = 0o020666
	program   = 0o100755
)

// write makes the archive. The kernel opens /dev/console for its init, and Go's runtime wants /dev/null where a
// standard descriptor is closed, which without a console all are.
func write(w io.Writer, agent []byte) error {
	a := archive{w: w}
	a.add("dev", directory, 0, 0, nil)
	a.add("dev/console", device, 5, 1, nil)
	a.add("dev/null", null, 1, 3, nil)
	a.add("root", directory, 0, 0, nil)
	a.add("init", program, 0, 0, agent)
	a.add("TRAILER!!!", 0, 0, 0, nil)
	return a.err
}

// archive keeps the first error; after it nothing is written.
type archive struct {
	w   io.Writer
	ino int
	n   int
	err error
}

// add writes one entry: header, name and data, the latter two each padded to four bytes.
func (a *archive) add(name string, mode, major, minor int, data []byte) {
	a.ino++
	links := 1
	if mode == directory {
		links = 2
	}
	const mtime, uid, gid, devMajor, devMinor, check = 0, 0, 0, 0, 0, 0
	header := "070701"
	for _, field := range []int{
		a.ino, mode, uid, gid, links, mtime, len(data), devMajor, devMinor, major, minor, len(name) + 1, check,
	} {
		header += fmt.Sprintf("%08X", field)
	}
	a.write([]byte(header + name + "\x00"))
	a.pad()
	a.write(data)
	a.pad()
}

func (a *archive) write(p []byte) {
	if a.err != nil {
		return
	}
	var n int
	n, a.err = a.w.Write(p)
	a.n += n
}

func (a *archive) pad() { a.write(make([]byte, (4-a.n%4)%4)) }
