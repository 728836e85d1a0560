package memory

import (
	"errors"
	"math"
	"testing"
)

func testSpace(t *testing.T) *Space {
	t.Helper()
	s, err := NewSpace(Region{Base: 0x4000, Bytes: make([]byte, 0x1000)}, Region{Base: 0x1000, Bytes: make([]byte, 0x1000)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSliceStaysInOneRegion(t *testing.T) {
	s := testSpace(t)
	for _, c := range []struct {
		addr, n uint64
		ok      bool
	}{
		{0x1000, 0x1000, true},
		{0x1fff, 1, true},
		{0x4000, 0, true},
		{0xfff, 1, false},
		{0x1fff, 2, false},
		{0x2000, 1, false},
		{0x1000, math.MaxUint64, false},
		{math.MaxUint64, 1, false},
		{math.MaxUint64, math.MaxUint64, false},
		{0x4800, 0x801, false},
	} {
		b, err := s.Slice(c.addr, c.n)
		if ok := err == nil; ok != c.ok {
			t.Errorf("Slice(%#x, %#x): error %v, want ok %v", c.addr, c.n, err, c.ok)
		}
		if err == nil && (uint64(len(b)) != c.n || uint64(cap(b)) != c.n) {
			t.Errorf("Slice(%#x, %#x): len %d cap %d", c.addr, c.n, len(b), cap(b))
		}
		if err != nil && !errors.Is(err, ErrOutOfRange) {
			t.Errorf("Slice(%#x, %#x): %v is not ErrOutOfRange", c.addr, c.n, err)
		}
	}
}

func TestNewSpaceRefusesOverlapAndWrap(t *testing.T) {
	page := make([]byte, 0x1000)
	for name, rs := range map[string][]Region{
		"overlap": {{Base: 0, Bytes: page}, {Base: 0xfff, Bytes: page}},
		"empty":   {{Base: 0}},
		"wrap":    {{Base: math.MaxUint64 - 10, Bytes: page}},
	} {
		if _, err := NewSpace(rs...); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestWordStoreKeepsItsNeighbour(t *testing.T) {
	s := testSpace(t)
	for _, addr := range []uint64{0x1000, 0x1002, 0x1ffe} {
		if err := s.Write(addr&^3, []byte{1, 2, 3, 4}); err != nil {
			t.Fatal(err)
		}
		w, err := s.WordAt(addr)
		if err != nil {
			t.Fatal(err)
		}
		w.Store(0xbeef)
		if got := w.Load(); got != 0xbeef {
			t.Errorf("at %#x: got %#x", addr, got)
		}
		var b [4]byte
		_ = s.Read(addr&^3, b[:])
		off := addr & 2
		if b[off] != 0xef || b[off+1] != 0xbe {
			t.Errorf("at %#x: not little-endian: %v", addr, b)
		}
		if other := 2 - off; b[other] != byte(other+1) || b[other+1] != byte(other+2) {
			t.Errorf("at %#x: neighbour changed: %v", addr, b)
		}
	}
	if _, err := s.WordAt(0x1001); err == nil {
		t.Error("odd address: no error")
	}
}

func TestDiscardZeroesWholePagesOnly(t *testing.T) {
	b, err := Map(4 * 4096)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = Unmap(b) }()
	for i := range b {
		b[i] = 7
	}
	s, err := NewSpace(Region{Base: 0x10000, Bytes: b})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Discard(0x10000+100, 2*4096); err != nil {
		t.Fatal(err)
	}
	for i, want := range map[int]byte{4095: 7, 4096: 0, 8191: 0, 8192: 7} {
		if b[i] != want {
			t.Errorf("byte %d is %d, want %d", i, b[i], want)
		}
	}
	if err := s.Discard(0x10000, 5*4096); !errors.Is(err, ErrOutOfRange) {
		t.Errorf("beyond the region: %v", err)
	}
}
