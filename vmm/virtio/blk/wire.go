package blk

import "encoding/binary"

// Features (virtio 1.2 §5.2.3).
const (
	featureSegMax      uint64 = 1 << 2
	featureRO          uint64 = 1 << 5
	featureBlkSize     uint64 = 1 << 6
	featureFlush       uint64 = 1 << 9
	featureTopology    uint64 = 1 << 10
	featureMQ          uint64 = 1 << 12
	featureDiscard     uint64 = 1 << 13
	featureWriteZeroes uint64 = 1 << 14
)

// Request types and the status at a request's end (§5.2.6).
const (
	typeIn          = 0
	typeOut         = 1
	typeFlush       = 4
	typeGetID       = 8
	typeDiscard     = 11
	typeWriteZeroes = 13

	statusOK     byte = 0
	statusIOErr  byte = 1
	statusUnsupp byte = 2
)

const (
	sectorShift = 9
	sectorSize  = 1 << sectorShift

	// serialSize is the length of the answer to GET_ID. A shorter serial is padded with zeroes.
	serialSize = 20
)

// header opens every request.
type header struct {
	kind   uint32
	sector uint64
}

const headerSize = 16

func parseHeader(b *[headerSize]byte) header {
	return header{kind: binary.LittleEndian.Uint32(b[0:]), sector: binary.LittleEndian.Uint64(b[8:])}
}

// extent is struct virtio_blk_discard_write_zeroes, the data of DISCARD and WRITE_ZEROES.
type extent struct {
	sector uint64
	count  uint32
	flags  uint32
}

const (
	extentSize = 16
	flagUnmap  = 1 << 0
)

func parseExtent(b *[extentSize]byte) extent {
	return extent{
		sector: binary.LittleEndian.Uint64(b[0:]),
		count:  binary.LittleEndian.Uint32(b[8:]),
		flags:  binary.LittleEndian.Uint32(b[12:]),
	}
}

// Limits of one DISCARD or WRITE_ZEROES. They bound how long it may take where the host has to write the zeroes.
const (
	maxExtents       = 16
	maxExtentSectors = 64 << 20 >> sectorShift
)

// config is what is variable of struct virtio_blk_config (§5.2.4).
type config struct {
	segMax    uint32
	blockSize uint32
	physical  uint8 // physical block size, as a power of two of blockSize
	queues    uint16
}

const configSize = 60

func (c *config) bytes(sectors uint64) (b [configSize]byte) {
	le := binary.LittleEndian
	le.PutUint64(b[0:], sectors)
	le.PutUint32(b[12:], c.segMax)
	le.PutUint32(b[20:], c.blockSize)
	b[24] = c.physical
	le.PutUint16(b[26:], 1) // min_io_size, in blocks
	le.PutUint16(b[34:], c.queues)
	le.PutUint32(b[36:], maxExtentSectors)
	le.PutUint32(b[40:], maxExtents)
	le.PutUint32(b[44:], c.blockSize<<c.physical>>sectorShift) // discard_sector_alignment
	le.PutUint32(b[48:], maxExtentSectors)
	le.PutUint32(b[52:], maxExtents)
	b[56] = 1 // write_zeroes_may_unmap
	return b
}
