package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
)

// Offsets in the setup header of a bzImage (Documentation/arch/x86/boot.rst in the kernel's tree).
const (
	setupSectors  = 0x1f1
	setupMagic    = 0x202
	payloadOffset = 0x248
	payloadLength = 0x24c
	setupEnd      = 0x250
	sectorSize    = 512
)

var errNotBzImage = errors.New("not a bzImage with a payload")

// Uncompressed returns the ELF kernel inside of the bzImage at path. QEMU enters it directly (PVH), which spares the
// emulated processor from decompressing it: half of the boot time.
func Uncompressed(path string) ([]byte, error) {
	image, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read kernel: %w", err)
	}
	payload, err := findPayload(image)
	if err != nil {
		return nil, fmt.Errorf("read kernel %s: %w", path, err)
	}
	plain, err := decompressByMagic(payload, path)
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(plain, []byte(elf.ELFMAG)) {
		return nil, fmt.Errorf("decompress kernel %s: what comes out is not ELF", path)
	}
	return plain, nil
}

func findPayload(image []byte) ([]byte, error) {
	if len(image) < setupEnd || string(image[setupMagic:setupMagic+4]) != "HdrS" {
		return nil, errNotBzImage
	}
	sectors := int64(image[setupSectors])
	if sectors == 0 {
		sectors = 4 // as the boot protocol has it
	}
	start := (sectors+1)*sectorSize + int64(binary.LittleEndian.Uint32(image[payloadOffset:]))
	end := start + int64(binary.LittleEndian.Uint32(image[payloadLength:]))
	if start >= end || end > int64(len(image)) {
		return nil, errNotBzImage
	}
	return image[start:end], nil
}
