package bus

import "testing"

type recorder struct{ off uint64 }

func (r *recorder) Read(off uint64, p []byte)  { r.off = off; p[0] = 42 }
func (r *recorder) Write(off uint64, p []byte) { r.off = off }

func TestAccessReachesTheRangeItFallsIn(t *testing.T) {
	var b Bus
	low, high := &recorder{}, &recorder{}
	if err := b.Insert(0x2000, 0x1000, high); err != nil {
		t.Fatal(err)
	}
	if err := b.Insert(0x1000, 0x100, low); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 4)
	if !b.Read(0x2ffc, p) || high.off != 0xffc || p[0] != 42 {
		t.Errorf("read of the high range: off %#x, value %d", high.off, p[0])
	}
	if !b.Write(0x1004, p) || low.off != 4 {
		t.Errorf("write of the low range: off %#x", low.off)
	}
	for _, addr := range []uint64{0, 0xfff, 0x10fd, 0x1100, 0x1fff, 0x2ffd, 0x3000, ^uint64(0)} {
		if b.Read(addr, p) {
			t.Errorf("somebody answered at %#x", addr)
		}
	}
}

func TestInsertRefusesOverlap(t *testing.T) {
	var b Bus
	if err := b.Insert(0x1000, 0x1000, &recorder{}); err != nil {
		t.Fatal(err)
	}
	for _, r := range [][2]uint64{{0x1000, 1}, {0xfff, 2}, {0x1fff, 1}, {0, 0x10000}, {5, 0}, {^uint64(0), 2}} {
		if err := b.Insert(r[0], r[1], &recorder{}); err == nil {
			t.Errorf("range %#x+%#x was accepted", r[0], r[1])
		}
	}
}
