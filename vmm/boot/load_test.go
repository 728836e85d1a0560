//go:build amd64

package boot_test

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/huskvm/husk/vmm/arch"
	"github.com/huskvm/husk/vmm/boot"
	"github.com/huskvm/husk/vmm/memory"
)

const mib = 1 << 20

func image(b []byte) boot.Image { return boot.Image{File: bytes.NewReader(b), Size: int64(len(b))} }

func space(t testing.TB, size uint64) *memory.Space {
	t.Helper()
	s, err := memory.NewSpace(memory.Region{Bytes: make([]byte, size)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func at(t testing.TB, mem *memory.Space, addr, n uint64) []byte {
	t.Helper()
	b, err := mem.Slice(addr, n)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var (
	linuxNote = note("Linux", 0x100, []byte{0})
	pvhNote   = note("Xen", 18, []byte{0x10, 0, 0x20, 0, 0, 0, 0, 0})
)

func TestSegmentsGoToTheirPhysicalAddresses(t *testing.T) {
	mem := space(t, 16*mib)
	entry, err := boot.Load(mem, boot.Params{Kernel: image(elf(
		segment{phys: 2 * mib, data: []byte("text"), mem: 4096},
		segment{phys: 4 * mib, data: []byte("data")},
		segment{phys: 6 * mib, mem: mib},
	))})
	if err != nil {
		t.Fatal(err)
	}
	if entry.Protocol != arch.LinuxBoot64 || entry.PC != 2*mib || entry.Params != arch.ZeroPageAddr {
		t.Errorf("entry %+v", entry)
	}
	if string(at(t, mem, 2*mib, 4)) != "text" || string(at(t, mem, 4*mib, 4)) != "data" {
		t.Error("the segments are not where they belong")
	}
}

func TestLinuxIsEnteredBy64BitsAndOthersByPVH(t *testing.T) {
	text := segment{phys: 2 * mib, data: make([]byte, 64)}
	for _, c := range []struct {
		name  string
		notes []byte
		want  arch.Protocol
		got   arch.Protocol
		pc    uint64
	}{
		{"Linux", append(bytes.Clone(linuxNote), pvhNote...), 0, arch.LinuxBoot64, 2 * mib},
		{"Linux, PVH asked for", append(bytes.Clone(linuxNote), pvhNote...), arch.PVH, arch.PVH, 2*mib + 16},
		{"another kernel", pvhNote, 0, arch.PVH, 2*mib + 16},
		{"PVH entry of 32 bits", note("Xen", 18, []byte{8, 0, 0x20, 0}), 0, arch.PVH, 2*mib + 8},
		{"no notes", nil, 0, arch.LinuxBoot64, 2 * mib},
		{"truncated notes", pvhNote[:len(pvhNote)-4], 0, arch.LinuxBoot64, 2 * mib},
	} {
		entry, err := boot.Load(space(t, 16*mib), boot.Params{
			Kernel: image(elf(text, segment{data: c.notes, note: true})), Protocol: c.want,
		})
		if err != nil || entry.Protocol != c.got || entry.PC != c.pc {
			t.Errorf("%s: entry %+v, %v", c.name, entry, err)
		}
	}
}

func TestZeroPageTellsTheKernelAllItNeeds(t *testing.T) {
	mem := space(t, 32*mib)
	initramfs := bytes.Repeat([]byte("cpio"), 3000)
	seed := bytes.Repeat([]byte{0xab}, 64)
	if _, err := boot.Load(mem, boot.Params{
		Kernel: image(elf(segment{phys: 16 * mib, data: []byte("text")})), Initramfs: image(initramfs),
		Cmdline: "panic=-1 quiet", Seed: seed,
	}); err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	zp := at(t, mem, arch.ZeroPageAddr, 4096)
	if le.Uint16(zp[0x1fe:]) != 0xaa55 || string(zp[0x202:0x206]) != "HdrS" || zp[0x210] != 0xff {
		t.Error("no setup header")
	}
	line := at(t, mem, uint64(le.Uint32(zp[0x228:])), 32)
	if string(line[:15]) != "panic=-1 quiet\x00" {
		t.Errorf("command line %q", line)
	}
	start, size := uint64(le.Uint32(zp[0x218:])), uint64(le.Uint32(zp[0x21c:]))
	if size != uint64(len(initramfs)) || start%4096 != 0 || !bytes.Equal(at(t, mem, start, size), initramfs) {
		t.Errorf("initramfs of %d bytes at %#x", size, start)
	}
	data := at(t, mem, le.Uint64(zp[0x250:]), 16+64)
	if le.Uint64(data) != 0 || le.Uint32(data[8:]) != 9 || le.Uint32(data[12:]) != 64 || !bytes.Equal(data[16:], seed) {
		t.Errorf("seed %x", data)
	}
	if n := int(zp[0x1e8]); n != 3 {
		t.Fatalf("%d entries in the memory map", n)
	}
	last := zp[0x2d0+2*20:]
	if le.Uint64(last) != mib || le.Uint64(last[8:]) != 31*mib || le.Uint32(last[16:]) != 1 {
		t.Errorf("memory from %#x, %#x bytes, type %d", le.Uint64(last), le.Uint64(last[8:]), le.Uint32(last[16:]))
	}
}

func TestStartInfoTellsThePVHKernelAllItNeeds(t *testing.T) {
	mem := space(t, 32*mib)
	entry, err := boot.Load(mem, boot.Params{
		Kernel:    image(elf(segment{phys: 2 * mib, data: make([]byte, 64)}, segment{data: pvhNote, note: true})),
		Initramfs: image([]byte("cpio")), Cmdline: "quiet",
	})
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	info := at(t, mem, entry.Params, 56)
	if le.Uint32(info) != 0x336ec578 || le.Uint32(info[4:]) != 1 || le.Uint32(info[12:]) != 1 {
		t.Fatalf("start info %x", info)
	}
	module := at(t, mem, le.Uint64(info[16:]), 32)
	if got := at(t, mem, le.Uint64(module), le.Uint64(module[8:])); string(got) != "cpio" {
		t.Errorf("module %q", got)
	}
	if got := at(t, mem, le.Uint64(info[24:]), 6); string(got) != "quiet\x00" {
		t.Errorf("command line %q", got)
	}
	table, n := le.Uint64(info[40:]), le.Uint32(info[48:])
	if last := at(t, mem, table+24*2, 24); n != 3 || le.Uint64(last) != mib || le.Uint64(last[8:]) != 31*mib || le.Uint32(last[16:]) != 1 {
		t.Errorf("memory map of %d entries, the last %x", n, last)
	}
}

func TestBzImageIsLoadedWhereItWantsToRun(t *testing.T) {
	mem := space(t, 16*mib)
	payload := bytes.Repeat([]byte("payload."), 200)
	entry, err := boot.Load(mem, boot.Params{Kernel: image(bzImage(payload))})
	if err != nil {
		t.Fatal(err)
	}
	if entry.Protocol != arch.LinuxBoot64 || entry.PC != mib+0x200 {
		t.Errorf("entry %+v", entry)
	}
	if !bytes.Equal(at(t, mem, mib, uint64(len(payload))), payload) {
		t.Error("the payload is not there")
	}
	zp := at(t, mem, arch.ZeroPageAddr, 4096)
	if zp[0x1f1] != 1 || binary.LittleEndian.Uint16(zp[0x206:]) != 0x020f {
		t.Error("the zero page has not the kernel's own header")
	}
}

func TestInitramfsStaysBelowWhatTheKernelCanReach(t *testing.T) {
	b := bzImage(make([]byte, 4096))
	binary.LittleEndian.PutUint32(b[0x22c:], 8*mib-1)
	mem := space(t, 16*mib)
	if _, err := boot.Load(mem, boot.Params{Kernel: image(b), Initramfs: image([]byte("cpio"))}); err != nil {
		t.Fatal(err)
	}
	zp := at(t, mem, arch.ZeroPageAddr, 4096)
	if start := binary.LittleEndian.Uint32(zp[0x218:]); start != 8*mib-4096 {
		t.Errorf("initramfs at %#x", start)
	}
}

func TestWhatCannotBootIsAnErrorThatSaysWhy(t *testing.T) {
	text := segment{phys: 2 * mib, data: make([]byte, 64)}
	good := func() []byte { return elf(text) }
	patch := func(b []byte, off int, v ...byte) []byte { copy(b[off:], v); return b }
	for _, c := range []struct {
		name   string
		params boot.Params
		want   string
	}{
		{"empty", boot.Params{Kernel: image(nil)}, "ends within"},
		{"a script", boot.Params{Kernel: image(append([]byte("#!/bin/sh\n"), make([]byte, 4096)...))}, "neither an ELF nor a bzImage"},
		{"arm64", boot.Params{Kernel: image(patch(good(), 18, 183, 0))}, "another architecture"},
		{"32 bits", boot.Params{Kernel: image(patch(good(), 4, 1))}, "another architecture"},
		{"an object file", boot.Params{Kernel: image(patch(good(), 16, 1, 0))}, "not executable"},
		{"headers outside", boot.Params{Kernel: image(patch(good(), 32, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff))}, "outside of the file"},
		{"truncated", boot.Params{Kernel: image(good()[:150])}, "outside of the file"},
		{"nothing to load", boot.Params{Kernel: image(elf(segment{data: pvhNote, note: true}))}, "nothing to load"},
		{"too low", boot.Params{Kernel: image(elf(segment{phys: 0x7000, data: []byte("x")}))}, "is taken"},
		{"too big", boot.Params{Kernel: image(elf(segment{phys: 2 * mib, data: []byte("x"), mem: 15 * mib}))}, "memory is too small"},
		{"wraps", boot.Params{Kernel: image(elf(segment{phys: 2 * mib, data: []byte("x"), mem: 1<<64 - 1}))}, "segment of"},
		{"overlap", boot.Params{Kernel: image(elf(text, segment{phys: 2*mib + 63, data: []byte("x")}))}, "overlap"},
		{"entry outside", boot.Params{Kernel: image(patch(good(), 24, 0, 0, 0, 1))}, "in no segment"},
		{"PVH asked for", boot.Params{Kernel: image(good()), Protocol: arch.PVH}, "no PVH entry"},
		{"old bzImage", boot.Params{Kernel: image(patch(bzImage(make([]byte, 4096)), 0x206, 8, 2))}, "older than"},
		{"32-bit bzImage", boot.Params{Kernel: image(patch(bzImage(make([]byte, 4096)), 0x236, 0))}, "no 64-bit entry"},
		{"truncated bzImage", boot.Params{Kernel: image(bzImage(nil))}, "ends within the kernel"},
		{"initramfs", boot.Params{Kernel: image(good()), Initramfs: image(make([]byte, 14*mib))}, "memory is too small"},
		{"initramfs that is gone", boot.Params{Kernel: image(good()), Initramfs: boot.Image{File: bytes.NewReader(nil), Size: 10}}, "initramfs"},
		{"command line", boot.Params{Kernel: image(good()), Cmdline: strings.Repeat("x", 2048)}, "command line of 2048 bytes"},
		{"zero byte", boot.Params{Kernel: image(good()), Cmdline: "a\x00b"}, "zero byte"},
		{"seed", boot.Params{Kernel: image(good()), Seed: make([]byte, 5000)}, "seed of 5000 bytes"},
	} {
		_, err := boot.Load(space(t, 16*mib), c.params)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}
