package arch

import (
	"encoding/binary"
	"reflect"
	"strings"
	"testing"

	"github.com/huskvm/husk/vmm/kvm"
	"github.com/huskvm/husk/vmm/memory"
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

func TestMemoryLeavesTheHoleBelow4GiB(t *testing.T) {
	for size, want := range map[uint64][]Range{
		128 * mib:           {{0, 128 * mib}},
		0xd0000000:          {{0, 0xd0000000}},
		0xd0000000 + 2*mib:  {{0, 0xd0000000}, {4 * gib, 2 * mib}},
		16 * gib:            {{0, 0xd0000000}, {4 * gib, 16*gib - 0xd0000000}},
		mib:                 nil,
		128*mib + 1:         nil,
		1<<63 + 1<<62 + mib: nil,
	} {
		got, err := MemoryRanges(size)
		if (err == nil) != (want != nil) || !reflect.DeepEqual(got, want) {
			t.Errorf("%#x bytes: %v, %v; want %v", size, got, err, want)
		}
	}
}

func TestSlotsNeverShareAnAddressOrALine(t *testing.T) {
	seen := map[uint64]bool{}
	for i := range MaxSlots {
		s, err := MMIOSlot(i)
		if err != nil {
			t.Fatal(err)
		}
		if s.Base < holeStart || s.Base+SlotSize > ioAPICAddr || s.IRQ >= ioPins || seen[s.Base] || seen[uint64(s.IRQ)] {
			t.Errorf("slot %d: %+v", i, s)
		}
		seen[s.Base], seen[uint64(s.IRQ)] = true, true
	}
	for _, i := range []int{-1, MaxSlots} {
		if _, err := MMIOSlot(i); err == nil {
			t.Errorf("slot %d: no error", i)
		}
	}
}

func TestMPTablesHoldTheirChecksumsAndCounts(t *testing.T) {
	for _, cpus := range []int{1, 2, 64, maxCPUs} {
		mem, err := memory.NewSpace(memory.Region{Bytes: make([]byte, 2*mib)})
		if err != nil {
			t.Fatal(err)
		}
		if err := WriteTables(mem, cpus); err != nil {
			t.Fatal(err)
		}
		b, _ := mem.Slice(mpTableAddr, mpTableMax)
		if string(b[:4]) != "_MP_" || checksum(b[:16]) != 0 {
			t.Fatalf("%d CPUs: pointer %x", cpus, b[:16])
		}
		table := b[binary.LittleEndian.Uint32(b[4:])-mpTableAddr:]
		table = table[:binary.LittleEndian.Uint16(table[4:])]
		if string(table[:4]) != "PCMP" || checksum(table) != 0 {
			t.Fatalf("%d CPUs: table %x", cpus, table[:44])
		}
		counts := map[byte]int{}
		n := int(binary.LittleEndian.Uint16(table[34:]))
		boots := 0
		for e := table[44:]; len(e) > 0; n-- {
			counts[e[0]]++
			size := 8
			if e[0] == mpProcessor {
				size = 20
				if e[3]&mpBootProcessor != 0 {
					boots++
				}
			}
			e = e[size:]
		}
		want := map[byte]int{mpProcessor: cpus, mpBus: 1, mpIOAPIC: 1, mpInterrupt: 24, mpLocalIRQ: 2}
		if n != 0 || boots != 1 || !reflect.DeepEqual(counts, want) {
			t.Errorf("%d CPUs: entries %v, %d uncounted, %d boot processors", cpus, counts, n, boots)
		}
	}
	if err := WriteTables(nil, maxCPUs+1); err == nil {
		t.Error("more CPUs than APIC ids: no error")
	}
}

func TestMemoryMapKeepsTheTablesOutOfMemory(t *testing.T) {
	mem, err := memory.NewSpace(memory.Region{Bytes: make([]byte, 2*mib)}, memory.Region{Base: 4 * gib, Bytes: make([]byte, mib)})
	if err != nil {
		t.Fatal(err)
	}
	want := []MapEntry{
		{Range{0, LowMemoryEnd}, MapRAM},
		{Range{mpTableAddr, mpTableMax}, MapReserved},
		{Range{HighMemory, mib}, MapRAM},
		{Range{4 * gib, mib}, MapRAM},
	}
	if got := MemoryMap(mem); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
}

// hostCPUID is a shortened host of the given vendor.
func hostCPUID(vendor uint32) []kvm.CPUIDEntry {
	return []kvm.CPUIDEntry{
		{Function: 0, EAX: 0x1f, EBX: vendor},
		{Function: 1, EBX: 0x0f100800, ECX: leaf1ECXVMX | leaf1ECXMonitor | leaf1ECXOSXSAVE | 1<<21, EDX: leaf1EDXHTT},
		{Function: 4, Index: 0, Flags: 1, EAX: 0xfc004121},
		{Function: 4, Index: 3, Flags: 1, EAX: 0xfc0fc163},
		{Function: 4, Index: 4, Flags: 1},
		{Function: 6, EAX: 0xff},
		{Function: 0xa, EAX: 0x07300402},
		{Function: 0xb, Index: 0, Flags: 1, EAX: 1, EBX: 2, ECX: 0x100, EDX: 9},
		{Function: 0xb, Index: 1, Flags: 1, EAX: 6, EBX: 32, ECX: 0x201, EDX: 9},
		{Function: 0x40000000, EBX: 0x4b4d564b},
		{Function: 0x40000001, EAX: 0x01007efb},
		{Function: 0x80000001, ECX: leaf80000001SVM | 1<<22},
		{Function: 0x80000008, EAX: 0x3030, ECX: 0x7f},
		{Function: 0x8000001d, Index: 3, Flags: 1, EAX: 0x3c163},
		{Function: 0x8000001e, EAX: 77, EBX: 0x177, ECX: 0x700},
	}
}

func find(t *testing.T, es []kvm.CPUIDEntry, function, index uint32) kvm.CPUIDEntry {
	t.Helper()
	var found []kvm.CPUIDEntry
	for _, e := range es {
		if e.Function == function && e.Index == index {
			found = append(found, e)
		}
	}
	if len(found) != 1 {
		t.Fatalf("leaf %#x.%d: %d entries", function, index, len(found))
	}
	return found[0]
}

func TestTopologyIsOnePackageOfSingleThreadedCores(t *testing.T) {
	for _, c := range []struct{ id, n, width uint32 }{{0, 1, 0}, {1, 2, 1}, {2, 3, 2}, {5, 8, 3}, {99, 100, 7}} {
		out := guestCPUID(hostCPUID(vendorAMD), topology{id: int(c.id), n: int(c.n)})
		one := find(t, out, 1, 0)
		if one.EBX>>24 != c.id || one.EBX>>16&0xff != 1<<c.width || one.EBX&0xffff != 0x0800 {
			t.Errorf("%d of %d: leaf 1 EBX %#x", c.id, c.n, one.EBX)
		}
		if htt := one.EDX&leaf1EDXHTT != 0; htt != (c.n > 1) {
			t.Errorf("%d of %d: HTT %v", c.id, c.n, htt)
		}
		for _, leaf := range []uint32{0xb, 0x1f} {
			smt, core, end := find(t, out, leaf, 0), find(t, out, leaf, 1), find(t, out, leaf, 2)
			if smt.EAX != 0 || smt.EBX != 1 || core.EAX != c.width || core.EBX != c.n || core.EDX != c.id || end.EBX != 0 {
				t.Errorf("%d of %d: leaf %#x %v %v %v", c.id, c.n, leaf, smt, core, end)
			}
		}
		if e := find(t, out, 4, 0); e.EAX>>14&0xfff != 0 {
			t.Errorf("%d of %d: the first cache is shared: %#x", c.id, c.n, e.EAX)
		}
		for _, e := range []kvm.CPUIDEntry{find(t, out, 4, 3), find(t, out, 0x8000001d, 3)} {
			if e.EAX>>14&0xfff != 1<<c.width-1 {
				t.Errorf("%d of %d: the last cache is not shared by all: %#x", c.id, c.n, e.EAX)
			}
		}
		if e := find(t, out, 0x80000008, 0); e.ECX != c.n-1|c.width<<12 || e.EAX != 0x3030 {
			t.Errorf("%d of %d: leaf 0x80000008 %+v", c.id, c.n, e)
		}
		if e := find(t, out, 0x8000001e, 0); e.EAX != c.id || e.EBX != c.id || e.ECX != 0 {
			t.Errorf("%d of %d: leaf 0x8000001e %+v", c.id, c.n, e)
		}
	}
}

func TestGuestSeesKVMAndNoNestedVirtualizationOrCounters(t *testing.T) {
	for _, vendor := range []uint32{vendorAMD, 0x756e6547} {
		out := guestCPUID(hostCPUID(vendor), topology{id: 0, n: 2})
		one := find(t, out, 1, 0)
		if one.ECX&(leaf1ECXVMX|leaf1ECXMonitor|leaf1ECXOSXSAVE) != 0 || find(t, out, 0x80000001, 0).ECX&leaf80000001SVM != 0 {
			t.Error("nested virtualization, MONITOR or OSXSAVE is on")
		}
		if one.ECX&leaf1ECXHypervisor == 0 || one.ECX&leaf1ECXDeadline == 0 || one.ECX&(1<<21) == 0 {
			t.Errorf("no hypervisor bit, deadline timer or x2APIC: %#x", one.ECX)
		}
		if e := find(t, out, 6, 0); e.EAX != leaf6EAXARAT {
			t.Errorf("leaf 6 %+v", e)
		}
		if e := find(t, out, 0xa, 0); e.EAX != 0 {
			t.Errorf("performance counters: %+v", e)
		}
		if find(t, out, 0x40000000, 0).EBX != 0x4b4d564b {
			t.Error("KVM's signature is gone")
		}
		if e := find(t, out, kvmFeatures, 0); e.EAX != 0x01003aeb {
			t.Errorf("KVM's features %#x", e.EAX)
		}
	}
}

func TestIntelHasNoAMDTopology(t *testing.T) {
	out := guestCPUID(hostCPUID(0x756e6547), topology{id: 1, n: 4})
	if e := find(t, out, 0x80000001, 0); e.ECX&leaf80000001Legacy != 0 {
		t.Error("HTT means cores on Intel")
	}
}

func TestCmdlineEndsWithTheUsersWords(t *testing.T) {
	slots := make([]Slot, MaxSlots)
	for i := range slots {
		slots[i], _ = MMIOSlot(i)
	}
	line, err := Cmdline(KernelWords(false, slots), " quiet  reboot=t ")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(line, "panic=-1 ") || !strings.HasSuffix(line, "virtio_mmio.device=4K@0xd0012000:23 quiet  reboot=t") {
		t.Errorf("got %q", line)
	}
	for _, bad := range []string{strings.Repeat("x", MaxCmdline), "a\nb", "a\x00b"} {
		if _, err := Cmdline(KernelWords(false, nil), bad); err == nil {
			t.Errorf("%.10q: no error", bad)
		}
	}
	for _, w := range KernelWords(true, slots) {
		if w.Reason == "" || strings.Contains(w.Word, " ") {
			t.Errorf("word %+v", w)
		}
	}
}

func TestSegmentDescriptorsAreThoseOfTheBootProtocol(t *testing.T) {
	if got := descriptor(segCode, 1); got != 0x00af9b000000ffff {
		t.Errorf("code %#x", got)
	}
	if got := descriptor(segData, 0); got != 0x00cf93000000ffff {
		t.Errorf("data %#x", got)
	}
}

func TestPageTablesMapTheFirst4GiBToThemselves(t *testing.T) {
	mem, err := memory.NewSpace(memory.Region{Bytes: make([]byte, mib)})
	if err != nil {
		t.Fatal(err)
	}
	if err := writeTables64(mem); err != nil {
		t.Fatal(err)
	}
	walk := func(addr uint64) uint64 {
		table := uint64(pageTables)
		for shift := 39; ; shift -= 9 {
			b, err := mem.Slice(table+addr>>shift&0x1ff*8, 8)
			if err != nil {
				t.Fatal(err)
			}
			e := binary.LittleEndian.Uint64(b)
			if e&ptePresent == 0 || e&pteWritable == 0 {
				t.Fatalf("%#x is not mapped", addr)
			}
			if e&pteLarge != 0 {
				return e&^(1<<shift-1) | addr&(1<<shift-1)
			}
			table = e &^ 0xfff
		}
	}
	for _, addr := range []uint64{0, 0x7000, mib, 16*mib + 5, gib, 3*gib + 12345, 4*gib - 1} {
		if got := walk(addr); got != addr {
			t.Errorf("%#x is mapped to %#x", addr, got)
		}
	}
}
