package kvm

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

func area() *VCPU { return &VCPU{area: make([]byte, 3*4096)} }

func TestImmediateExitIsTheByteAtOffset1(t *testing.T) {
	c := area()
	c.SetImmediateExit(true)
	if got := c.area[:4]; !bytes.Equal(got, []byte{0, 1, 0, 0}) {
		t.Errorf("set: %v", got)
	}
	c.SetImmediateExit(false)
	if got := c.area[:4]; !bytes.Equal(got, make([]byte, 4)) {
		t.Errorf("cleared: %v", got)
	}
}

func TestMMIOReadWritesIntoTheRunArea(t *testing.T) {
	c := area()
	binary.NativeEndian.PutUint64(c.area[mmioAddr:], 0xd0000070)
	binary.NativeEndian.PutUint32(c.area[mmioLen:], 4)
	m := c.MMIO()
	if m.Addr != 0xd0000070 || len(m.Data) != 4 || m.Write {
		t.Fatalf("got %+v", m)
	}
	m.Data[3] = 0xaa
	if c.area[mmioData+3] != 0xaa {
		t.Error("the data is a copy")
	}
}

func TestMMIONeverLeavesItsEightBytes(t *testing.T) {
	c := area()
	binary.NativeEndian.PutUint32(c.area[mmioLen:], 0xffffffff)
	if n := len(c.MMIO().Data); n != 8 {
		t.Errorf("got %d bytes", n)
	}
}

func TestPIOOfAStringInstructionHasAllItsData(t *testing.T) {
	c := area()
	c.area[ioDirection], c.area[ioSize] = 1, 2
	binary.NativeEndian.PutUint16(c.area[ioPort:], 0x3f8)
	binary.NativeEndian.PutUint32(c.area[ioCount:], 3)
	binary.NativeEndian.PutUint64(c.area[ioOffset:], 4096)
	p := c.PIO()
	if p.Port != 0x3f8 || p.Size != 2 || len(p.Data) != 6 || !p.Out {
		t.Errorf("got %+v", p)
	}
	binary.NativeEndian.PutUint64(c.area[ioOffset:], 3*4096-5)
	if p := c.PIO(); p.Data != nil {
		t.Errorf("data beyond the area: %d bytes", len(p.Data))
	}
}

func TestInternalErrorNamesWhatHappened(t *testing.T) {
	c := area()
	binary.NativeEndian.PutUint32(c.area[eventType:], 1)
	binary.NativeEndian.PutUint32(c.area[eventCount:], 1000)
	e := c.InternalError()
	if len(e.Data) != eventMax || !strings.Contains(e.Error(), "emulation failed") {
		t.Errorf("got %v", e)
	}
}
