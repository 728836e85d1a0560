package boot

import (
	"encoding/binary"
	"fmt"

	"github.com/huskvm/husk/vmm/arch"
	"github.com/huskvm/husk/vmm/memory"
)

// Structures of PVH (Xen's public/arch-x86/hvm/start_info.h).
const (
	startInfoMagic   = 0x336ec578
	startInfoVersion = 1 // the first with a memory map
	startInfoSize    = 56
	moduleSize       = 32
	pvhMapSize       = 24

	moduleAddr = arch.StartInfoAddr + 64
	pvhMapAddr = moduleAddr + moduleSize
	pvhMapMax  = (arch.ZeroPageAddr - pvhMapAddr) / pvhMapSize
)

// writeStartInfo writes the parameters of PVH: start info, one module for the initramfs, memory map.
func writeStartInfo(mem *memory.Space, initramfs span) (uint64, error) {
	le := binary.LittleEndian
	memoryMap := arch.MemoryMap(mem)
	if len(memoryMap) > pvhMapMax {
		return 0, fmt.Errorf("memory map of %d entries, at most %d", len(memoryMap), pvhMapMax)
	}
	info := make([]byte, startInfoSize)
	le.PutUint32(info, startInfoMagic)
	le.PutUint32(info[4:], startInfoVersion)
	if initramfs.end > initramfs.start {
		le.PutUint32(info[12:], 1)
		le.PutUint64(info[16:], moduleAddr)
		module := make([]byte, moduleSize)
		le.PutUint64(module, initramfs.start)
		le.PutUint64(module[8:], initramfs.end-initramfs.start)
		if err := mem.Write(moduleAddr, module); err != nil {
			return 0, err
		}
	}
	le.PutUint64(info[24:], arch.CmdlineAddr)
	le.PutUint64(info[40:], pvhMapAddr)
	le.PutUint32(info[48:], uint32(len(memoryMap)))
	table := make([]byte, len(memoryMap)*pvhMapSize)
	for i, e := range memoryMap {
		b := table[i*pvhMapSize:]
		le.PutUint64(b, e.Base)
		le.PutUint64(b[8:], e.Size)
		le.PutUint32(b[16:], uint32(e.Type))
	}
	if err := mem.Write(pvhMapAddr, table); err != nil {
		return 0, err
	}
	return arch.StartInfoAddr, mem.Write(arch.StartInfoAddr, info)
}
