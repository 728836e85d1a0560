package kvm

import (
	"reflect"
	"testing"
)

// The size that a request number carries is the size the kernel will copy.
func TestStructuresHaveTheSizeTheirRequestSays(t *testing.T) {
	for _, c := range []struct {
		request uint32
		value   any
	}{
		{setUserMemoryRegion, userspaceMemoryRegion{}},
		{irqLine, irqLevel{}},
		{irqFD, irqFDArgs{}},
		{ioEventFD, ioEventFDArgs{}},
		{enableCap, enableCapArgs{}},
		{getMPState, MPState(0)},
		{setMPState, MPState(0)},
		{setIdentityMapAddr, uint64(0)},
		{createPIT2, pitConfig{}},
		{setClock, ClockData{}},
		{getClock, ClockData{}},
		{getRegs, Regs{}},
		{setRegs, Regs{}},
		{getSregs, Sregs{}},
		{setSregs, Sregs{}},
		{getFPU, FPU{}},
		{setFPU, FPU{}},
		{getLAPIC, LAPIC{}},
		{setLAPIC, LAPIC{}},
	} {
		want := uintptr(c.request >> 16 & 0x3fff)
		if got := reflect.TypeOf(c.value).Size(); got != want {
			t.Errorf("%T has %d bytes, request %#x says %d", c.value, got, c.request, want)
		}
	}
	// The size of variable structures is that of their header.
	if got := reflect.TypeOf(CPUIDEntry{}).Size(); got != 40 {
		t.Errorf("CPUIDEntry has %d bytes, want 40", got)
	}
	if got := reflect.TypeOf(MSR{}).Size(); got != 16 {
		t.Errorf("MSR has %d bytes, want 16", got)
	}
}
