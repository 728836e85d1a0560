// Package cpio writes "newc" archives, the form in which Linux takes an initramfs
// (Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's tree).
//
// It knows directories, regular files and character devices, because the test host's initramfs needs no more.
// Everything belongs to root and has no time, so equal input gives equal bytes.
package cpio

import (
	"fmt"
	"io"
	"strings"
)

const (
	trailer = "TRAILER!!!"

	modeDirectory = 0o040000
	modeCharacter = 0o020000
	modeRegular   = 0o100000

	// The format's size field has 8 hexadecimal digits.
	maxSize = 1<<32 - 1
)

// Writer writes one archive. Names are relative to the root and have no leading slash; a directory goes
// before what is in it. After Close the archive is complete and the Writer must not be used again.
type Writer struct {
	w       io.Writer
	written int64
	inode   uint32
}

// NewWriter returns a Writer that writes its archive to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Directory adds a directory.
func (w *Writer) Directory(name string, perm uint32) error {
	return w.entry(header{name: name, mode: modeDirectory | perm, links: 2}, nil)
}

// File adds a regular file.
func (w *Writer) File(name string, perm uint32, content []byte) error {
	return w.entry(header{name: name, mode: modeRegular | perm, links: 1}, content)
}

// Character adds a character device.
func (w *Writer) Character(name string, perm, major, minor uint32) error {
	return w.entry(header{name: name, mode: modeCharacter | perm, links: 1, major: major, minor: minor}, nil)
}

// Close writes the end mark. It does not close the underlying writer.
func (w *Writer) Close() error {
	return w.write(header{name: trailer, links: 1}, nil)
}

type header struct {
	name         string
	mode         uint32
	links        uint32
	major, minor uint32
}

func (w *Writer) entry(h header, content []byte) error {
	if h.name == "" || h.name == trailer || strings.HasPrefix(h.name, "/") || strings.ContainsRune(h.name, 0) {
		return fmt.Errorf("add %q to archive: not a relative name", h.name)
	}
	if int64(len(content)) > maxSize {
		return fmt.Errorf("add %s to archive: larger than the format can say", h.name)
	}
	w.inode++
	return w.write(h, content)
}

func (w *Writer) write(h header, content []byte) error {
	inode := w.inode
	if h.name == trailer {
		inode = 0
	}
	// magic, ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		inode, h.mode, 0, 0, h.links, 0, len(content), 0, 0, h.major, h.minor, len(h.name)+1, 0, h.name)
	if err := w.padded([]byte(head)); err != nil {
		return fmt.Errorf("write archive header of %s: %w", h.name, err)
	}
	if err := w.padded(content); err != nil {
		return fmt.Errorf("write archive content of %s: %w", h.name, err)
	}
	return nil
}

// padded writes p and then zeros up to the next multiple of four of the whole archive.
func (w *Writer) padded(p []byte) error {
	n, err := w.w.Write(p)
	w.written += int64(n)
	if err != nil {
		return err
	}
	n, err = w.w.Write(make([]byte, -w.written&3))
	w.written += int64(n)
	return err
}
