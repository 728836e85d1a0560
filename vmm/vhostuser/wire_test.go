package vhostuser

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
)

// words is what a program of this machine sees of b as 32-bit numbers: what the specification means by native.
func words(b []byte) (w []uint32) {
	for ; len(b) >= 4; b = b[4:] {
		w = append(w, binary.NativeEndian.Uint32(b))
	}
	return w
}

func TestMessagesAreInNativeByteOrder(t *testing.T) {
	for name, c := range map[string]struct {
		bytes []byte
		want  []uint32
	}{
		"header":     {header{request: getVringBase, flags: 5}.encode(make([]byte, 8)), []uint32{11, 5, 8, 0, 0}},
		"ring state": {ringState{1, 2}.encode(), []uint32{1, 2}},
		"config":     {configAccess{offset: 4, flags: 1, data: make([]byte, 4)}.encode(), []uint32{4, 4, 1, 0}},
	} {
		if got := words(c.bytes); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if got := binary.NativeEndian.Uint64(encodeU64(1 << 40)); got != 1<<40 {
		t.Errorf("u64: %#x", got)
	}
}

func TestHeaderIsChecked(t *testing.T) {
	for _, c := range []struct {
		flags, size uint32
		ok          bool
	}{
		{1, 0, true}, {9, 268, true}, {0, 0, false}, {2, 0, false}, {3, 0, false}, {5, 0, false}, {0x11, 0, false},
		{1, 269, false}, {1, 1<<32 - 1, false},
	} {
		var b []byte
		for _, v := range []uint32{uint32(setConfig), c.flags, c.size} {
			b = binary.NativeEndian.AppendUint32(b, v)
		}
		h, err := decodeHeader(b)
		if (err == nil) != c.ok || h != (header{setConfig, c.flags, c.size}) {
			t.Errorf("flags %#x, size %d: %+v, error %v", c.flags, c.size, h, err)
		}
	}
}

func TestPayloadsAreRead(t *testing.T) {
	addr := ringAddr{index: 1, flags: 2, desc: 3 << 32, used: 4 << 32, avail: 5 << 32}
	if got := decodeRingAddr(addr.encode()); got != addr {
		t.Errorf("ring addresses %+v", got)
	}
	if got := decodeRingState(ringState{3, 4}.encode()); got != (ringState{3, 4}) {
		t.Errorf("ring state %+v", got)
	}
	regions := []region{{guest: 1, size: 2, user: 3, offset: 4}, {guest: 5 << 32, size: 6 << 32, user: 7 << 32, offset: 8 << 32}}
	if got, err := decodeTable(encodeTable(regions...)); err != nil || !slices.Equal(got, regions) {
		t.Errorf("memory table %+v, %v", got, err)
	}
	if got, err := decodeConfig(configAccess{1, 2, []byte{3}}.encode()); err != nil || got.offset != 1 || got.flags != 2 || !bytes.Equal(got.data, []byte{3}) {
		t.Errorf("config %+v, %v", got, err)
	}
	for v, want := range map[uint64]ringFD{7: {7, true}, 0x107: {7, false}} {
		if got, err := decodeRingFD(encodeU64(v)); err != nil || got != want {
			t.Errorf("%#x: %+v, %v", v, got, err)
		}
	}
}

func TestMemoryTableIsChecked(t *testing.T) {
	const top = ^uint64(0)
	good := region{guest: 0, size: 4096, user: 0, offset: 0}
	for name, b := range map[string][]byte{
		"no region":    encodeTable(),
		"nine regions": encodeTable(good, good, good, good, good, good, good, good, good),
		"cut":          encodeTable(good, good)[:tableHead+regionSize],
		"longer":       append(encodeTable(good), 0),
		"empty region": encodeTable(good, region{}),
		"guest wraps":  encodeTable(region{guest: top, size: 2}),
		"user wraps":   encodeTable(region{user: top, size: 2}),
		"offset wraps": encodeTable(region{offset: top, size: 2}),
	} {
		if got, err := decodeTable(b); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// Every number that means something has a name and a shape in which it can come.
func TestShapesFitTheLargestMessage(t *testing.T) {
	for r, s := range shapes {
		if s.name == "" || s.min > s.max || s.max > maxPayload || s.fds > maxRegions {
			t.Errorf("request %d: %+v", uint32(r), s)
		}
	}
}
