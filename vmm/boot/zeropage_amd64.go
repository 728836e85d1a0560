package boot

import (
	"encoding/binary"
	"fmt"

	"github.com/huskvm/husk/vmm/arch"
	"github.com/huskvm/husk/vmm/memory"
)

// Fields of the zero page beside the setup header (struct boot_params).
const (
	zeroPageSize = 4096
	zpE820Count  = 0x1e8
	zpE820       = 0x2d0
	e820Size     = 20
	e820Max      = 128

	setupRNGSeed    = 9 // SETUP_RNG_SEED
	setupHeaderSize = 16
	maxSeed         = 4096
)

// writeZeroPage writes the parameters of the 64-bit protocol. header is the kernel's own setup header, or nil for
// an ELF, which needs only what is set here.
func writeZeroPage(mem *memory.Space, header []byte, initramfs span, seed []byte) (uint64, error) {
	zp, err := mem.Slice(arch.ZeroPageAddr, zeroPageSize)
	if err != nil {
		return 0, err
	}
	le := binary.LittleEndian
	if header != nil {
		copy(zp[hdrStart:], header[hdrStart:])
	} else {
		le.PutUint16(zp[hdrBootFlag:], bootFlag)
		copy(zp[hdrMagic:], hdrSignature)
		le.PutUint16(zp[hdrVersion:], protocol212)
		zp[hdrLoadFlags] = loadedHigh
		le.PutUint32(zp[hdrKernelAlign:], 1<<24)
	}
	zp[hdrLoader] = loaderUnlisted
	le.PutUint32(zp[hdrCmdlinePtr:], arch.CmdlineAddr)
	le.PutUint32(zp[hdrRamdiskImage:], uint32(initramfs.start))
	le.PutUint32(zp[hdrRamdiskSize:], uint32(initramfs.end-initramfs.start))

	memoryMap := arch.MemoryMap(mem)
	if len(memoryMap) > e820Max {
		return 0, fmt.Errorf("memory map of %d entries, at most %d", len(memoryMap), e820Max)
	}
	zp[zpE820Count] = byte(len(memoryMap))
	for i, e := range memoryMap {
		b := zp[zpE820+i*e820Size:]
		le.PutUint64(b, e.Base)
		le.PutUint64(b[8:], e.Size)
		le.PutUint32(b[16:], uint32(e.Type))
	}

	if len(seed) == 0 {
		return arch.ZeroPageAddr, nil
	}
	if len(seed) > maxSeed {
		return 0, fmt.Errorf("seed of %d bytes, at most %d", len(seed), maxSeed)
	}
	data := make([]byte, setupHeaderSize, setupHeaderSize+len(seed))
	le.PutUint32(data[8:], setupRNGSeed)
	le.PutUint32(data[12:], uint32(len(seed)))
	if err := mem.Write(arch.SetupDataAddr, append(data, seed...)); err != nil {
		return 0, err
	}
	le.PutUint64(zp[hdrSetupData:], arch.SetupDataAddr)
	return arch.ZeroPageAddr, nil
}
