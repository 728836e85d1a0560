package vsock

import (
	"context"
	"encoding/binary"
	"testing"
	"time"

	"github.com/huskvm/husk/vmm/virtio/virtiotest"
)

// FuzzTx lets a guest put any packets on the tx queue, in any descriptors, while it gives buffers back or not.
//
// The input is a sequence of commands of six bytes: what, and five of arguments. A header has few ports, so that
// packets meet connections; a command of its own takes all of the header from the input.
func FuzzTx(f *testing.F) {
	cmd := func(what byte, args ...byte) []byte {
		var b [6]byte
		b[0] = what
		copy(b[1:], args)
		return b[:]
	}
	seed := func(cmds ...[]byte) {
		var all []byte
		for _, c := range cmds {
			all = append(all, c...)
		}
		f.Add(all)
	}
	request, data := cmd(0, byte(opRequest), 1), cmd(0, byte(opData), 1, 0, 200, 3)
	seed(request, data, cmd(0, byte(opShutdown), 1, shutBoth), cmd(0, byte(opReset), 1))
	seed(request, cmd(1), data, data, cmd(0, byte(opShutdown), 1, shutSend), cmd(2), cmd(0, byte(opCreditRequest), 1))
	seed(request, request, data, cmd(0, byte(opReset), 1), request, cmd(0, byte(opData), 1, 0, 255, 255))
	seed(cmd(0, byte(opResponse), 2), cmd(0, 99, 3), cmd(4, 20), cmd(4, 43), cmd(4, 44), data)
	seed(append(cmd(3), make([]byte, headerSize)...), cmd(5, 1), cmd(6), request, cmd(1), cmd(2))
	seed(cmd(7, 0xff, 0xff), cmd(7, 1, 1, 2, 3))
	seed(request, cmd(8, 1), cmd(0, byte(opCreditUpdate), 1, 0, 255), cmd(8, 200), cmd(1), cmd(9, 1))

	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 600 {
			return
		}
		var ends []Conn
		ended := make(chan Conn, 1024)
		g := newGuest(t, hostFunc(func(_ context.Context, port uint32) (Conn, error) {
			if port == 3 {
				return nil, errNobody
			}
			device, test := pair(t)
			ended <- test
			return device, nil
		}), 4, 512)
		// Descriptors and buffers that the device may be looking at are not written: that is for the real guest,
		// and here a data race. The commands that take descriptors from the input have the upper half for it.
		const half = 128
		head, fresh, spare := uint16(0), uint16(0), g.driver.Alloc(256)
		used := func() {
			for end := time.Now().Add(deadline); len(g.failed.Failed) == 0; {
				if time.Now().After(end) {
					t.Fatal("a packet is not taken")
				}
				if _, _, err := g.tx.UsedWithin(10 * time.Millisecond); err == nil {
					return
				}
			}
		}
		submit := func(b []byte, size int) {
			h := head % (half / perSlot)
			head++
			a := g.txAddr[h]
			copy(g.driver.Bytes(a, len(b)), b)
			cut := uint32(min(len(b), int(head)%50))
			g.tx.Submit(h*perSlot, virtiotest.Desc{Addr: a, Len: cut}, virtiotest.Desc{Addr: a + uint64(cut), Len: uint32(size) - cut})
			used()
		}
		for len(in) >= 6 && len(g.failed.Failed) == 0 {
			c := in[:6]
			in = in[6:]
			switch c[0] {
			case 0: // a plausible packet
				h := header{
					srcCID: testCID, dstCID: hostCID, srcPort: uint32(c[2]), dstPort: uint32(c[2]), socketType: typeStream,
					op: op(c[1]), flags: uint32(c[3]), bufAlloc: uint32(c[4]) << 8, fwdCount: uint32(c[3]),
					size: uint32(binary.LittleEndian.Uint16(c[4:])),
				}
				if h.op != opData {
					h.size = 0
				}
				var b [headerSize]byte
				h.encode(&b)
				submit(b[:], headerSize+int(min(h.size, maxPayload)))
			case 1: // read what came
				for {
					head, n, err := g.rx.UsedWithin(0)
					if err != nil {
						break
					}
					if head < half {
						var h header
						h.decode((*[headerSize]byte)(g.driver.Bytes(g.rxAddr[head/perSlot], headerSize)))
						if h.size != n-headerSize {
							t.Errorf("%d bytes of data where the header says %d", n-headerSize, h.size)
						}
						g.post(head / perSlot)
					}
				}
			case 2: // the host ends
				select {
				case e := <-ended:
					_ = e.CloseWrite()
					ends = append(ends, e)
				default:
				}
			case 3: // any header
				var b [headerSize]byte
				in = in[copy(b[:], in):]
				submit(b[:], headerSize+100)
			case 4: // a short one
				n := int(c[1])%headerSize + 1
				submit(make([]byte, n), n)
			case 5: // a descriptor of anything
				i := half + fresh%half
				fresh++
				g.tx.SetDesc(i, binary.LittleEndian.Uint64(in0(in)), uint32(c[1]), uint16(c[2]), uint16(c[3])|uint16(c[4])<<8)
				g.tx.SubmitHead(i + uint16(c[5])<<1)
				used()
			case 6:
				if err := g.dev.Reset(); err != nil {
					t.Fatal(err)
				}
				g.activate(int(c[1]) % 8)
			case 7: // an rx buffer of anything
				i := half + fresh%half
				fresh++
				g.rx.SetDesc(i, spare, uint32(c[1]), uint16(c[2])|2, uint16(c[3]))
				g.rx.SubmitHead(i + uint16(c[4])<<1)
			case 8, 9: // the host talks, or leaves
				select {
				case e := <-ended:
					if ends = append(ends, e); c[0] == 9 {
						_ = e.Close()
					} else {
						_, _ = e.Write(make([]byte, int(c[1])*10))
					}
				default:
				}
			}
		}
		m := g.dev.mux
		m.mu.Lock()
		if len(m.resets) > maxResets || len(m.all) > maxConns {
			t.Errorf("%d resets, %d connections", len(m.resets), len(m.all))
		}
		for c := range m.all {
			if c.pending() > c.alloc {
				t.Errorf("backlog of %d", c.pending())
			}
		}
		m.mu.Unlock()
		if err := g.dev.Close(); err != nil {
			t.Fatal(err)
		}
		for _, e := range ends {
			_ = e.Close()
		}
		wantNoGoroutines(t)
	})
}

// in0 is the next eight bytes, or zeroes.
func in0(in []byte) []byte {
	var b [8]byte
	copy(b[:], in)
	return b[:]
}
