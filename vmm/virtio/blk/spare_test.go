package blk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"
)

// capacity is what the guest reads of it.
func (g *guest) capacity() uint64 {
	var b [8]byte
	g.dev.ReadConfig(b[:], 0)
	return binary.LittleEndian.Uint64(b[:])
}

func (g *guest) expectNoDisk() {
	g.t.Helper()
	if n := g.capacity(); n != 0 {
		g.t.Errorf("%d sectors", n)
	}
	if id, status, _ := g.do(typeGetID, 0, nil, serialSize); status != statusOK || !bytes.Equal(id, make([]byte, serialSize)) {
		g.t.Errorf("id %q, status %d", id, status)
	}
	for _, kind := range []uint32{typeIn, typeOut, typeDiscard, typeWriteZeroes} {
		out, in := rawExtent(0, 1, 0), 0
		switch kind {
		case typeIn:
			out, in = nil, sectorSize
		case typeOut:
			out = make([]byte, sectorSize)
		}
		if _, status, _ := g.do(kind, 0, out, in); status != statusIOErr {
			g.t.Errorf("request %d: status %d", kind, status)
		}
	}
	if _, status, _ := g.do(typeFlush, 0, nil, 0); status != statusOK {
		g.t.Errorf("flush: status %d", status)
	}
}

func spare(t *testing.T) *guest {
	t.Helper()
	dev, err := NewSpare(1)
	if err != nil {
		t.Fatal(err)
	}
	return run(t, dev, allFeatures)
}

func TestADiskComesAndGoes(t *testing.T) {
	g := spare(t)
	g.expectNoDisk()
	for _, sectors := range []int{8, 24} {
		f := image(t, sectors)
		if err := g.dev.Insert(Config{File: f, Serial: "late"}); err != nil {
			t.Fatal(err)
		}
		if n := g.capacity(); n != uint64(sectors) {
			t.Errorf("%d sectors", n)
		}
		if id, _, _ := g.do(typeGetID, 0, nil, serialSize); strings.TrimRight(string(id), "\x00") != "late" {
			t.Errorf("id %q", id)
		}
		if b, status, _ := g.do(typeIn, 7, nil, sectorSize); status != statusOK || b[0] != 7 {
			t.Errorf("status %d, data %d…", status, b[0])
		}
		if _, status, _ := g.do(typeOut, 0, make([]byte, sectorSize), 0); status != statusOK {
			t.Errorf("write: status %d", status)
		}
		if err := g.dev.Eject(); err != nil {
			t.Error(err)
		}
		g.expectNoDisk()
		if _, err := f.Stat(); err == nil {
			t.Error("the file is open still")
		}
	}
	if n := len(g.tr.Changed); n != 4 {
		t.Errorf("the guest was told %d times", n)
	}
}

func TestALateDiskForReadingOnlyKeepsItsContents(t *testing.T) {
	g := spare(t)
	f := image(t, 8)
	if err := g.dev.Insert(Config{File: f, ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	want := g.contents()
	for _, kind := range []uint32{typeOut, typeDiscard, typeWriteZeroes} {
		out := rawExtent(0, 8, 0)
		if kind == typeOut {
			out = make([]byte, sectorSize)
		}
		if _, status, _ := g.do(kind, 0, out, 0); status != statusIOErr {
			t.Errorf("request %d: status %d", kind, status)
		}
	}
	if !bytes.Equal(g.contents(), want) {
		t.Error("the contents have changed")
	}
}

func TestWhatIsNoDiskIsNotInserted(t *testing.T) {
	g := spare(t)
	empty, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.dev.Insert(Config{File: empty}); err == nil {
		t.Error("a character device is a disk")
	}
	if err := g.dev.Insert(Config{File: image(t, 8), Serial: strings.Repeat("s", serialSize+1)}); err == nil {
		t.Error("a serial of 21 bytes is taken")
	}
	g.expectNoDisk()
}

// A request finds the disk or none, but never a descriptor that is closed or somebody else's.
func TestADiskGoesWhileItIsRead(t *testing.T) {
	g := spare(t)
	contents := bytes.NewReader(bytes.Repeat([]byte{9}, 16*sectorSize))
	files := make([]*os.File, 200)
	for i := range files {
		files[i] = memfd(t, contents)
	}
	done := make(chan error)
	go func() {
		var errs []error
		for _, f := range files {
			errs = append(errs, g.dev.Insert(Config{File: f}), g.dev.Eject())
		}
		done <- errors.Join(errs...)
	}()
	for range 2000 {
		if b, status, _ := g.do(typeIn, 3, nil, sectorSize); status != statusIOErr && (status != statusOK || b[0] != 9) {
			t.Errorf("status %d, data %d…", status, b[0])
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
