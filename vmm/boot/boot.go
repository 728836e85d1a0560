// Package boot puts a kernel, its initramfs and its parameters into guest memory.
//
// The machine package calls Load once, before the first vCPU runs. Kernel and initramfs come as already open
// files, are read straight into guest memory, and are not trusted: whatever is in them, Load answers with an
// error and touches nothing outside of the guest. It knows nothing of KVM; the Entry it returns says where the
// first vCPU begins.
//
// Kernels: an uncompressed ELF (Xen's PVH, or the 64-bit protocol of Documentation/arch/x86/boot.rst), and a
// bzImage by the latter.
package boot

import (
	"errors"
	"fmt"
	"io"

	"github.com/huskvm/husk/vmm/arch"
)

// Params is what is booted.
type Params struct {
	Kernel    Image
	Initramfs Image  // none when Size is 0
	Cmdline   string // see arch.Cmdline
	// Seed makes the guest's random numbers good from its first instruction; 32 bytes or more of the host's
	// randomness. It reaches the kernel by the 64-bit protocol only, and the kernel wipes it once used.
	Seed []byte
	// Protocol asks for a way to enter an ELF kernel that has more than one; 0 leaves the choice to Load. A
	// kernel of Linux is entered by the 64-bit protocol then: that one can hand over a seed, and skips the
	// kernel's own way from 32 bits to 64. Anything else that has a PVH note is entered by PVH.
	Protocol arch.Protocol
}

// Image is an open file of a known size.
type Image struct {
	File io.ReaderAt
	Size int64
}

// file is what can become an Image; *os.File can.
type file interface {
	io.ReaderAt
	io.Seeker
}

// NewImage is the image in f, whose size it finds by seeking, so that it works for a block device too.
func NewImage(f file) (Image, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return Image{}, fmt.Errorf("find the size of an image: %w", err)
	}
	return Image{File: f, Size: size}, nil
}

// readAt fills p from off; a file that ends before says so.
func (i Image) readAt(p []byte, off int64) error {
	if off < 0 || off > i.Size || int64(len(p)) > i.Size-off {
		return fmt.Errorf("file of %d bytes ends within %d bytes at %d", i.Size, len(p), off)
	}
	n, err := i.File.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
