package fuse

import (
	"bytes"
	"encoding/binary"
)

// Decoder takes fields from the front of B. Beyond its end it gives zeroes and notes that it was Short.
type Decoder struct {
	B     []byte
	Big   bool
	Short bool
}

// Bytes takes n bytes, which alias B; nil when there are fewer.
func (d *Decoder) Bytes(n int) []byte {
	if n < 0 || n > len(d.B) {
		d.Short, d.B = true, nil
		return nil
	}
	b := d.B[:n]
	d.B = d.B[n:]
	return b
}

// U16 takes 16 bits.
func (d *Decoder) U16() uint16 {
	b := d.Bytes(2)
	switch {
	case b == nil:
		return 0
	case d.Big:
		return binary.BigEndian.Uint16(b)
	}
	return binary.LittleEndian.Uint16(b)
}

// U32 takes 32 bits.
func (d *Decoder) U32() uint32 {
	b := d.Bytes(4)
	switch {
	case b == nil:
		return 0
	case d.Big:
		return binary.BigEndian.Uint32(b)
	}
	return binary.LittleEndian.Uint32(b)
}

// U64 takes 64 bits.
func (d *Decoder) U64() uint64 {
	b := d.Bytes(8)
	switch {
	case b == nil:
		return 0
	case d.Big:
		return binary.BigEndian.Uint64(b)
	}
	return binary.LittleEndian.Uint64(b)
}

// String takes what is before the next NUL, and the NUL.
func (d *Decoder) String() string {
	i := bytes.IndexByte(d.B, 0)
	if i < 0 {
		d.Short, d.B = true, nil
		return ""
	}
	s := string(d.B[:i])
	d.B = d.B[i+1:]
	return s
}

// Encoder appends fields to B.
type Encoder struct {
	B   []byte
	Big bool
}

// U16 appends 16 bits.
func (e *Encoder) U16(v uint16) {
	if e.Big {
		e.B = binary.BigEndian.AppendUint16(e.B, v)
		return
	}
	e.B = binary.LittleEndian.AppendUint16(e.B, v)
}

// U32 appends 32 bits.
func (e *Encoder) U32(v uint32) {
	if e.Big {
		e.B = binary.BigEndian.AppendUint32(e.B, v)
		return
	}
	e.B = binary.LittleEndian.AppendUint32(e.B, v)
}

// U64 appends 64 bits.
func (e *Encoder) U64(v uint64) {
	if e.Big {
		e.B = binary.BigEndian.AppendUint64(e.B, v)
		return
	}
	e.B = binary.LittleEndian.AppendUint64(e.B, v)
}

var zeroes [128]byte

// Zero appends n zero bytes.
func (e *Encoder) Zero(n int) {
	for n > 0 {
		k := min(n, len(zeroes))
		e.B = append(e.B, zeroes[:k]...)
		n -= k
	}
}

// Bytes appends p.
func (e *Encoder) Bytes(p []byte) { e.B = append(e.B, p...) }

// OutHeader appends the header of a reply that is n bytes long, header included. errno is positive.
func (e *Encoder) OutHeader(n int, errno uint32, unique uint64) {
	e.U32(uint32(n))
	e.U32(-errno)
	e.U64(unique)
}

// Dirent appends a directory entry, padded.
func (e *Encoder) Dirent(ino, off uint64, typ uint32, name []byte) {
	e.U64(ino)
	e.U64(off)
	e.U32(uint32(len(name)))
	e.U32(typ)
	e.Bytes(name)
	e.Zero(DirentLen(len(name)) - DirentSize - len(name))
}
