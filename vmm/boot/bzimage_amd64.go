package boot

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/huskvm/husk/vmm/arch"
	"github.com/huskvm/husk/vmm/memory"
)

var errNotBzImage = errors.New("not a bzImage")

// Fields of the setup header, as offsets in the file and in the zero page alike (boot.rst, "The Real-Mode Kernel
// Header").
const (
	hdrStart         = 0x1f1
	hdrSetupSects    = 0x1f1
	hdrBootFlag      = 0x1fe
	hdrJump          = 0x200
	hdrMagic         = 0x202
	hdrVersion       = 0x206
	hdrLoader        = 0x210
	hdrLoadFlags     = 0x211
	hdrRamdiskImage  = 0x218
	hdrRamdiskSize   = 0x21c
	hdrCmdlinePtr    = 0x228
	hdrInitrdAddrMax = 0x22c
	hdrKernelAlign   = 0x230
	hdrXLoadFlags    = 0x236
	hdrCmdlineSize   = 0x238
	hdrSetupData     = 0x250
	hdrPrefAddress   = 0x258
	hdrInitSize      = 0x260
	hdrMinimumEnd    = 0x264 // what protocol 2.12 has
	hdrMaximumEnd    = 0x290 // where the zero page goes on with something else

	bootFlag     = 0xaa55
	hdrSignature = "HdrS"
	// protocol212 is the first to say whether a kernel has a 64-bit entry; Linux 3.8.
	protocol212    = 0x020c
	loadedHigh     = 1 << 0
	xload64        = 1 << 0
	entry64        = 0x200
	loaderUnlisted = 0xff
)

// openBzImage understands a compressed kernel. It is loaded where it wants to run, so that it unpacks in place.
func openBzImage(mem *memory.Space, img Image) (*kernel, error) {
	h := make([]byte, hdrMaximumEnd)
	if img.Size < int64(len(h)) {
		return nil, errNotBzImage
	}
	if err := img.readAt(h, 0); err != nil {
		return nil, fmt.Errorf("read kernel: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint16(h[hdrBootFlag:]) != bootFlag || string(h[hdrMagic:hdrMagic+4]) != hdrSignature {
		return nil, errNotBzImage
	}
	end := hdrMagic + int(h[hdrJump+1])
	version := le.Uint16(h[hdrVersion:])
	switch {
	case version < protocol212 || end < hdrMinimumEnd:
		return nil, fmt.Errorf("kernel (bzImage): boot protocol %d.%02d is older than 2.12", version>>8, version&0xff)
	case le.Uint16(h[hdrXLoadFlags:])&xload64 == 0 || h[hdrLoadFlags]&loadedHigh == 0:
		return nil, errors.New("kernel (bzImage): no 64-bit entry: it is of another architecture")
	}
	sects := int64(h[hdrSetupSects])
	if sects == 0 {
		sects = 4
	}
	off := (sects + 1) * 512
	size := img.Size - off
	load, need := le.Uint64(h[hdrPrefAddress:]), uint64(le.Uint32(h[hdrInitSize:]))
	switch {
	case size <= entry64:
		return nil, fmt.Errorf("kernel (bzImage): file of %d bytes ends within the kernel", img.Size)
	case load < arch.HighMemory || load >= 1<<32:
		return nil, fmt.Errorf("kernel (bzImage): preferred address %#x", load)
	}
	need = max(need, uint64(size))
	k := &kernel{
		entry:        arch.Entry{Protocol: arch.LinuxBoot64, PC: load + entry64},
		occupied:     span{load, load + need, "kernel"},
		header:       h[:min(end, hdrMaximumEnd)],
		maxCmdline:   min(int(le.Uint32(h[hdrCmdlineSize:])), 1<<16),
		maxInitramfs: uint64(le.Uint32(h[hdrInitrdAddrMax:])),
	}
	if err := reserve(mem, k.occupied); err != nil {
		return nil, fmt.Errorf("memory is too small: %w", err)
	}
	to, err := mem.Slice(load, uint64(size))
	if err != nil {
		return nil, err
	}
	k.pieces = []piece{{from: img, off: off, to: to, name: "kernel"}}
	return k, nil
}
