package blk

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"github.com/huskvm/husk/vmm/virtio/queue"
	"github.com/huskvm/husk/vmm/virtio/virtiotest"
)

// FuzzBlk makes requests out of the input, each from 16 bytes, one after the other on a disk of 64 sectors that is
// compared with a model of it. Their buffers are split where the input says.
//
//	0     type, of a few more than there are      8–9   length of the data
//	1     what the sector is relative to          10–11 where to split the readable part
//	2–3   sector                                  12–13 where to split the writable part
//	4–7   count of an extent                      14    flags of an extent; 15 what is written
func FuzzBlk(f *testing.F) {
	const sectors = 64
	f.Fuzz(func(t *testing.T, data []byte) {
		model := make([]byte, sectors*sectorSize)
		file := memfd(t, bytes.NewReader(model))
		dev, err := New(Config{File: file})
		if err != nil {
			t.Fatal(err)
		}
		defer dev.Close()
		r := &request{disk: dev.disk}
		for ; len(data) >= 16; data = data[16:] {
			le := binary.LittleEndian
			kinds := []uint32{typeIn, typeOut, typeFlush, typeGetID, typeDiscard, typeWriteZeroes, 2, 14, 1 << 31}
			kind := kinds[int(data[0])%len(kinds)]
			sector := []uint64{0, sectors, 1 << 55, 1<<64 - 1<<15}[data[1]%4] + uint64(le.Uint16(data[2:]))%80
			size := int(le.Uint16(data[8:])) % 8192
			var out []byte
			room := 0
			switch kind {
			case typeOut:
				out = bytes.Repeat(data[15:16], size)
			case typeDiscard, typeWriteZeroes:
				out = bytes.Repeat(rawExtent(sector, le.Uint32(data[4:])%200, uint32(data[14]%4)), 1+size%3)
			default:
				room = size
			}

			d := virtiotest.NewDriver(t, 64<<10)
			q := d.NewQueue(8)
			readable := append(rawHeader(kind, sector), out...)
			from, to := d.Put(readable), d.Put(make([]byte, room+1))
			cut := uint32(le.Uint16(data[10:])) % uint32(len(readable)+1)
			hole := uint32(le.Uint16(data[12:])) % uint32(room+2)
			q.Submit(0, virtiotest.Desc{Addr: from, Len: cut},
				virtiotest.Desc{Addr: from + uint64(cut), Len: uint32(len(readable)) - cut},
				virtiotest.Desc{Addr: to, Len: hole, Writable: true},
				virtiotest.Desc{Addr: to + uint64(hole), Len: uint32(room) + 1 - hole, Writable: true})
			dq, err := queue.New(d.Memory, q.Config)
			if err != nil {
				t.Fatal(err)
			}
			c, err := dq.Pop()
			if err != nil {
				t.Fatal(err)
			}
			if err := r.handle(c); err != nil {
				t.Fatal(err)
			}
			if c.Written() > uint32(room)+1 {
				t.Fatalf("%d bytes written into %d", c.Written(), room+1)
			}
			answer := d.Bytes(to, room+1)
			if answer[room] != statusOK {
				continue
			}
			switch at := int(sector) * sectorSize; kind {
			case typeIn:
				if room > 0 && !bytes.Equal(answer[:room], model[at:][:room]) {
					t.Fatalf("read of %d bytes from sector %d differs", room, sector)
				}
			case typeOut:
				if len(out) > 0 {
					copy(model[at:at+len(out)], out)
				}
			case typeDiscard, typeWriteZeroes:
				if n := int(parseExtent((*[extentSize]byte)(out)).count) * sectorSize; n > 0 {
					clear(model[at : at+n])
				}
			}
		}
		got, err := io.ReadAll(io.NewSectionReader(file, 0, 1<<20))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, model) {
			t.Fatal("the disk is not what the model says")
		}
	})
}
