package boot

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/huskvm/husk/vmm/arch"
	"github.com/huskvm/husk/vmm/memory"
)

// kernel is a kernel whose headers have been understood and that fits into memory, not yet loaded.
type kernel struct {
	entry        arch.Entry // without Params
	occupied     span       // all that it uses before it looks at its memory map
	pieces       []piece
	header       []byte // setup header, for the zero page; the kernel's own or nil
	maxCmdline   int
	maxInitramfs uint64 // last address an initramfs may use
}

// Load fills mem, which must be all zero, and returns where to enter. What was written when it returns an error
// is undefined.
func Load(mem *memory.Space, p Params) (arch.Entry, error) {
	k, err := open(mem, p)
	if err != nil {
		return arch.Entry{}, err
	}
	initramfs, err := place(mem, k, p.Initramfs)
	if err != nil {
		return arch.Entry{}, err
	}
	if p.Initramfs.Size > 0 {
		to, err := mem.Slice(initramfs.start, initramfs.end-initramfs.start)
		if err != nil {
			return arch.Entry{}, err
		}
		k.pieces = append(k.pieces, piece{from: p.Initramfs, to: to, name: "initramfs"})
	}
	if err := readAll(k.pieces); err != nil {
		return arch.Entry{}, err
	}
	if err := writeCmdline(mem, p.Cmdline, k.maxCmdline); err != nil {
		return arch.Entry{}, err
	}
	switch k.entry.Protocol {
	case arch.PVH:
		k.entry.Params, err = writeStartInfo(mem, initramfs)
	default:
		k.entry.Params, err = writeZeroPage(mem, k.header, initramfs, p.Seed)
	}
	return k.entry, err
}

// open recognizes the kernel by its first bytes.
func open(mem *memory.Space, p Params) (*kernel, error) {
	var magic [4]byte
	if err := p.Kernel.readAt(magic[:], 0); err != nil {
		return nil, fmt.Errorf("read kernel: %w", err)
	}
	if bytes.Equal(magic[:], elfMagic) {
		return openELF(mem, p.Kernel, p.Protocol)
	}
	k, err := openBzImage(mem, p.Kernel)
	if errors.Is(err, errNotBzImage) {
		return nil, errors.New("the kernel is neither an ELF nor a bzImage")
	}
	return k, err
}

// place finds room for the initramfs: as high as the kernel accepts in memory below 4 GiB, away from where the
// kernel unpacks and allocates first.
func place(mem *memory.Space, k *kernel, initramfs Image) (span, error) {
	s := span{name: "initramfs"}
	if initramfs.Size < 0 {
		return s, fmt.Errorf("initramfs of %d bytes", initramfs.Size)
	}
	if initramfs.Size == 0 {
		return s, nil
	}
	low := mem.Regions()[0]
	limit := low.Base + uint64(len(low.Bytes))
	if k.maxInitramfs < limit-1 {
		limit = k.maxInitramfs + 1
	}
	const page = 4096
	size := uint64(initramfs.Size)
	if free := limit - min(limit, k.occupied.end); size > free {
		return s, fmt.Errorf("memory is too small: the kernel ends at %d MiB, the initramfs needs %d MiB, and memory it may use ends at %d MiB",
			mib(k.occupied.end), mib(size), limit>>20)
	}
	s.start = (limit - size) &^ (page - 1)
	s.end = s.start + size
	if s.start < k.occupied.end || low.Base > s.start {
		return s, fmt.Errorf("memory is too small for a kernel up to %d MiB and an initramfs of %d bytes", mib(k.occupied.end), size)
	}
	return s, nil
}

// mib rounds up.
func mib(n uint64) uint64 { return (n + 1<<20 - 1) >> 20 }

func writeCmdline(mem *memory.Space, line string, limit int) error {
	if len(line) > limit {
		return fmt.Errorf("kernel command line of %d bytes: this kernel takes %d", len(line), limit)
	}
	if bytes.IndexByte([]byte(line), 0) >= 0 {
		return errors.New("kernel command line contains a zero byte")
	}
	return mem.Write(arch.CmdlineAddr, append([]byte(line), 0))
}
