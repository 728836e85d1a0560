package arch

import (
	"encoding/binary"
	"fmt"

	"github.com/huskvm/husk/vmm/memory"
)

// maxCPUs is what the 8-bit APIC ids of an MP table allow: 255 means all of them, and the I/O APIC has one.
const maxCPUs = 254

// WriteTables writes what a kernel without ACPI finds the processors and interrupt lines by: the tables of the
// MultiProcessor Specification 1.4. They lie at 0xf0000, the third of the places where that specification
// (section 4) has a kernel look, and the only one with room for more than 40 processors.
func WriteTables(mem *memory.Space, cpus int) error {
	if err := checkCPUs(cpus); err != nil {
		return err
	}
	t := mpTables(cpus)
	if len(t) > mpTableMax {
		return fmt.Errorf("MP tables of %d bytes are too long", len(t))
	}
	if err := mem.Write(mpTableAddr, t); err != nil {
		return fmt.Errorf("write MP tables: %w", err)
	}
	return nil
}

func checkCPUs(n int) error {
	if n < 1 || n > maxCPUs {
		return fmt.Errorf("%d vCPUs: a machine has 1 to %d", n, maxCPUs)
	}
	return nil
}

// Entry types of the configuration table, MP specification 4.3.
const (
	mpProcessor = 0
	mpBus       = 1
	mpIOAPIC    = 2
	mpInterrupt = 3
	mpLocalIRQ  = 4

	mpEnabled       = 1 << 0
	mpBootProcessor = 1 << 1

	mpVectored = 0 // interrupt types
	mpNMI      = 1
	mpExtINT   = 3

	mpAllAPICs = 0xff
)

// mpTables is the floating pointer structure, followed by the configuration table.
func mpTables(cpus int) []byte {
	const (
		pointerSize  = 16
		headerSize   = 44
		isaBus       = 0
		apicVersion  = 0x14 // an integrated local APIC
		ioVersion    = 0x11
		specRevision = 4
		// Family 6 with FPU and APIC; kernels take the real thing from CPUID.
		signature, features = 0x600, 0x201
	)
	le := binary.LittleEndian
	ioAPIC := byte(cpus) // the first id that no processor has

	var entries []byte
	count := 0
	add := func(b ...byte) { entries, count = append(entries, b...), count+1 }
	for id := range cpus {
		flags := byte(mpEnabled)
		if id == 0 {
			flags |= mpBootProcessor
		}
		e := make([]byte, 20)
		copy(e, []byte{mpProcessor, byte(id), apicVersion, flags})
		le.PutUint32(e[4:], signature)
		le.PutUint32(e[8:], features)
		add(e...)
	}
	add(append([]byte{mpBus, isaBus}, "ISA   "...)...)
	add(le.AppendUint32([]byte{mpIOAPIC, ioAPIC, ioVersion, mpEnabled}, ioAPICAddr)...)
	// Flags 0 are the bus's own: edge-triggered, active high on ISA. KVM routes line n to pin n.
	for pin := range byte(ioPins) {
		add(mpInterrupt, mpVectored, 0, 0, isaBus, pin, ioAPIC, pin)
	}
	add(mpLocalIRQ, mpExtINT, 0, 0, isaBus, 0, mpAllAPICs, 0)
	add(mpLocalIRQ, mpNMI, 0, 0, isaBus, 0, mpAllAPICs, 1)

	header := make([]byte, headerSize)
	copy(header, "PCMP")
	le.PutUint16(header[4:], uint16(headerSize+len(entries)))
	header[6] = specRevision
	copy(header[8:], "HUSK    ")
	copy(header[16:], "MICROVM     ")
	le.PutUint16(header[34:], uint16(count))
	le.PutUint32(header[36:], localAPICAddr)
	table := append(header, entries...)
	table[7] = checksum(table)

	pointer := make([]byte, pointerSize)
	copy(pointer, "_MP_")
	le.PutUint32(pointer[4:], mpTableAddr+pointerSize)
	pointer[8] = 1 // length in units of 16 bytes
	pointer[9] = specRevision
	pointer[10] = checksum(pointer)
	return append(pointer, table...)
}

// checksum is the byte that makes the sum of b zero.
func checksum(b []byte) byte {
	var sum byte
	for _, c := range b {
		sum += c
	}
	return -sum
}
