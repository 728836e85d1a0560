package blk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/virtiotest"
)

const allFeatures = featureFlush | featureMQ

// image is a file of n sectors, each filled with its own number.
func image(t testing.TB, sectors int) *os.File {
	t.Helper()
	b := make([]byte, sectors*sectorSize)
	for i := range b {
		b[i] = byte(i / sectorSize)
	}
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "image"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	return f
}

type guest struct {
	*virtiotest.Driver
	t   testing.TB
	dev *Device
	q   []*virtiotest.Queue
	tr  *virtiotest.Transport
}

func start(t testing.TB, cfg Config, features uint64) *guest {
	t.Helper()
	dev, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return run(t, dev, features)
}

func run(t testing.TB, dev *Device, features uint64) *guest {
	t.Helper()
	g := &guest{Driver: virtiotest.NewDriver(t, 8<<20), t: t, dev: dev}
	for range dev.Queues() {
		g.q = append(g.q, g.NewQueue(queueSize))
	}
	a, tr := g.Activation(features, g.q...)
	g.tr = tr
	if err := dev.Activate(a); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(dev.Reset(), dev.Close()); err != nil {
			t.Error(err)
		}
	})
	return g
}

func rawHeader(kind uint32, sector uint64) []byte {
	b := make([]byte, headerSize)
	binary.LittleEndian.PutUint32(b, kind)
	binary.LittleEndian.PutUint64(b[8:], sector)
	return b
}

func rawExtent(sector uint64, count, flags uint32) []byte {
	b := binary.LittleEndian.AppendUint64(nil, sector)
	b = binary.LittleEndian.AppendUint32(b, count)
	return binary.LittleEndian.AppendUint32(b, flags)
}

// do makes a request on queue 0: out follows the header; the answer has room for in bytes and the status.
func (g *guest) do(kind uint32, sector uint64, out []byte, in int) (answer []byte, status byte, used uint32) {
	g.t.Helper()
	chain := []virtiotest.Desc{{Addr: g.Put(rawHeader(kind, sector)), Len: headerSize}}
	if len(out) > 0 {
		chain = append(chain, virtiotest.Desc{Addr: g.Put(out), Len: uint32(len(out))})
	}
	room := g.Put(bytes.Repeat([]byte{0xee}, in+1))
	if in > 0 {
		chain = append(chain, virtiotest.Desc{Addr: room, Len: uint32(in), Writable: true})
	}
	chain = append(chain, virtiotest.Desc{Addr: room + uint64(in), Len: 1, Writable: true})
	g.q[0].Submit(0, chain...)
	_, used = g.q[0].Used()
	b := g.Bytes(room, in+1)
	return b[:in], b[in], used
}

func (g *guest) contents() []byte {
	g.t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(g.dev.disk.file, 0, 1<<30))
	if err != nil {
		g.t.Fatal(err)
	}
	return b
}

func TestReadGivesWhatWasWritten(t *testing.T) {
	g := start(t, Config{File: image(t, 64)}, allFeatures)
	data := bytes.Repeat([]byte("husk"), 1024)
	if _, status, used := g.do(typeOut, 3, data, 0); status != statusOK || used != 1 {
		t.Fatalf("write: status %d, used length %d", status, used)
	}
	got, status, used := g.do(typeIn, 3, nil, len(data))
	if status != statusOK || used != uint32(len(data))+1 {
		t.Errorf("read: status %d, used length %d", status, used)
	}
	if !bytes.Equal(got, data) {
		t.Error("read something else")
	}
	want := bytes.Repeat([]byte{2}, sectorSize)
	if all := g.contents(); !bytes.Equal(all[3*sectorSize:][:len(data)], data) || !bytes.Equal(all[2*sectorSize:3*sectorSize], want) {
		t.Error("the file has something else")
	}
}

func TestOddlySplitDescriptors(t *testing.T) {
	g := start(t, Config{File: image(t, 64)}, allFeatures)
	header := g.Put(rawHeader(typeIn, 5))
	room := g.Alloc(2*sectorSize + 1)
	// The header in three, the data cut in the middle of sectors, the status at the end of a data buffer, and an
	// empty one behind it.
	g.q[0].Submit(0,
		virtiotest.Desc{Addr: header, Len: 1}, virtiotest.Desc{Addr: header + 1, Len: 14}, virtiotest.Desc{Addr: header + 15, Len: 1},
		virtiotest.Desc{Addr: room, Len: 1, Writable: true},
		virtiotest.Desc{Addr: room + 1, Len: 0, Writable: true},
		virtiotest.Desc{Addr: room + 1, Len: 700, Writable: true},
		virtiotest.Desc{Addr: room + 701, Len: 2*sectorSize + 1 - 701, Writable: true},
		virtiotest.Desc{Addr: room, Len: 0, Writable: true})
	if _, used := g.q[0].Used(); used != 2*sectorSize+1 {
		t.Errorf("used length %d", used)
	}
	want := append(bytes.Repeat([]byte{5}, sectorSize), bytes.Repeat([]byte{6}, sectorSize)...)
	if got := g.Bytes(room, 2*sectorSize+1); !bytes.Equal(got, append(want, statusOK)) {
		t.Error("wrong data or status")
	}
	// And a write whose header and data share a buffer.
	one := g.Put(append(rawHeader(typeOut, 9), bytes.Repeat([]byte{0xab}, sectorSize)...))
	g.q[0].Submit(0, virtiotest.Desc{Addr: one, Len: headerSize + sectorSize}, virtiotest.Desc{Addr: room, Len: 1, Writable: true})
	g.q[0].Used()
	if got := g.contents()[9*sectorSize:][:sectorSize]; !bytes.Equal(got, bytes.Repeat([]byte{0xab}, sectorSize)) {
		t.Error("wrong data written")
	}
}

func TestMoreSegmentsThanOneSystemCallTakes(t *testing.T) {
	g := start(t, Config{File: image(t, 64)}, allFeatures)
	// An indirect table: header, 2·128+10 pieces of 64 bytes to read into, status.
	const pieces = 2*128 + 8
	header, room := g.Put(rawHeader(typeIn, 1)), g.Alloc(pieces*64+1)
	table := make([]byte, 0, 16*(pieces+2))
	desc := func(addr uint64, n uint32, flags uint16) {
		table = binary.LittleEndian.AppendUint64(table, addr)
		table = binary.LittleEndian.AppendUint32(table, n)
		table = binary.LittleEndian.AppendUint16(table, flags)
		table = binary.LittleEndian.AppendUint16(table, uint16(len(table)/16+1))
	}
	desc(header, headerSize, 1)
	for i := range pieces {
		desc(room+uint64(i)*64, 64, 3)
	}
	desc(room+pieces*64, 1, 2)
	g.q[0].SetDesc(0, g.Put(table), uint32(len(table)), 4, 0)
	g.q[0].SubmitHead(0)
	if _, used := g.q[0].Used(); used != pieces*64+1 {
		t.Errorf("used length %d", used)
	}
	if got := g.Bytes(room, pieces*64); !bytes.Equal(got, g.contents()[sectorSize:][:len(got)]) {
		t.Error("wrong data")
	}
}

func TestRequestsOutOfOrderGetAStatus(t *testing.T) {
	sector := make([]byte, sectorSize)
	for name, c := range map[string]struct {
		kind   uint32
		sector uint64
		out    []byte
		in     int
		want   byte
	}{
		"read the last sector":             {typeIn, 63, nil, sectorSize, statusOK},
		"read nothing":                     {typeIn, 64, nil, 0, statusOK},
		"read beyond the end":              {typeIn, 64, nil, sectorSize, statusIOErr},
		"read across the end":              {typeIn, 63, nil, 2 * sectorSize, statusIOErr},
		"read at a wrapping sector":        {typeIn, 1 << 55, nil, sectorSize, statusIOErr},
		"read at the last sector there is": {typeIn, 1<<64 - 1, nil, sectorSize, statusIOErr},
		"read part of a sector":            {typeIn, 0, nil, 100, statusIOErr},
		"write beyond the end":             {typeOut, 64, sector, 0, statusIOErr},
		"write at a wrapping sector":       {typeOut, 1<<64 - 1, sector, 0, statusIOErr},
		"write part of a sector":           {typeOut, 0, sector[:511], 0, statusIOErr},
		"flush":                            {typeFlush, 0, nil, 0, statusOK},
		"unknown type":                     {99, 0, sector, 0, statusUnsupp},
		"SCSI":                             {2, 0, nil, 512, statusUnsupp},
		"secure erase":                     {14, 0, rawExtent(0, 1, 0), 0, statusUnsupp},
		"discard":                          {typeDiscard, 0, rawExtent(8, 8, 0), 0, statusOK},
		"discard nothing":                  {typeDiscard, 0, rawExtent(8, 0, 0), 0, statusOK},
		"discard without an extent":        {typeDiscard, 0, nil, 0, statusIOErr},
		"discard half an extent":           {typeDiscard, 0, rawExtent(8, 8, 0)[:8], 0, statusIOErr},
		"discard too many extents":         {typeDiscard, 0, make([]byte, extentSize*(maxExtents+1)), 0, statusIOErr},
		"discard beyond the end":           {typeDiscard, 0, rawExtent(63, 2, 0), 0, statusIOErr},
		"discard at a wrapping sector":     {typeDiscard, 0, rawExtent(1<<64-1, 2, 0), 0, statusIOErr},
		"discard too much":                 {typeDiscard, 0, rawExtent(0, maxExtentSectors+1, 0), 0, statusIOErr},
		"discard with unmap":               {typeDiscard, 0, rawExtent(8, 8, flagUnmap), 0, statusUnsupp},
		"discard with an unknown flag":     {typeDiscard, 0, rawExtent(8, 8, 2), 0, statusUnsupp},
		"write zeroes":                     {typeWriteZeroes, 0, rawExtent(8, 8, 0), 0, statusOK},
		"write zeroes and unmap":           {typeWriteZeroes, 0, rawExtent(8, 8, flagUnmap), 0, statusOK},
		"write zeroes with unknown flag":   {typeWriteZeroes, 0, rawExtent(8, 8, 4), 0, statusUnsupp},
		"write zeroes beyond the end":      {typeWriteZeroes, 0, rawExtent(64, 1, 0), 0, statusIOErr},
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, Config{File: image(t, 64)}, allFeatures)
			before := g.contents()
			if _, status, _ := g.do(c.kind, c.sector, c.out, c.in); status != c.want {
				t.Errorf("status %d, want %d", status, c.want)
			}
			if after := g.contents(); len(after) != len(before) || c.want != statusOK && !bytes.Equal(before, after) {
				t.Error("the file has changed")
			}
		})
	}
}

func TestDiscardAndWriteZeroesClearExactlyTheirExtents(t *testing.T) {
	for name, c := range map[string]struct{ kind, flags uint32 }{
		"discard": {typeDiscard, 0}, "write zeroes": {typeWriteZeroes, 0}, "write zeroes, unmap": {typeWriteZeroes, flagUnmap},
	} {
		for _, file := range []string{"regular", "memfd"} { // the latter knows no ZERO_RANGE
			t.Run(name+", "+file, func(t *testing.T) {
				f := image(t, 64)
				if file == "memfd" {
					f = memfd(t, f)
				}
				g := start(t, Config{File: f}, allFeatures)
				want := g.contents()
				clear(want[2*sectorSize : 5*sectorSize])
				clear(want[40*sectorSize : 64*sectorSize])
				out := append(rawExtent(2, 3, c.flags), rawExtent(40, 24, c.flags)...)
				if _, status, _ := g.do(c.kind, 0, out, 0); status != statusOK {
					t.Fatalf("status %d", status)
				}
				if !bytes.Equal(g.contents(), want) {
					t.Error("other bytes than asked for are cleared")
				}
			})
		}
	}
}

func memfd(t testing.TB, from io.Reader) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("disk", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "memfd")
	if s, ok := from.(io.Seeker); ok {
		_, _ = s.Seek(0, io.SeekStart)
	}
	if _, err := io.Copy(f, from); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestSerialIsPaddedAndItsRoomRespected(t *testing.T) {
	g := start(t, Config{File: image(t, 1), Serial: "rootfs"}, allFeatures)
	want := "rootfs" + strings.Repeat("\x00", 14)
	if got, status, used := g.do(typeGetID, 0, nil, 20); status != statusOK || string(got) != want || used != 21 {
		t.Errorf("%q, status %d, used length %d", got, status, used)
	}
	if got, _, _ := g.do(typeGetID, 0, nil, 4); string(got) != "root" {
		t.Errorf("in 4 bytes: %q", got)
	}
	if got, status, used := g.do(typeGetID, 0, nil, 30); string(got[:20]) != want || status != statusOK || used != 20 {
		t.Errorf("in 30 bytes: %q, status %d, used length %d", got, status, used)
	}
}

func TestAReadOnlyDiskIsNeverWritten(t *testing.T) {
	g := start(t, Config{File: image(t, 8), ReadOnly: true}, allFeatures) // though the file is open for writing
	if f := g.dev.Features(); f&featureRO == 0 || f&(featureDiscard|featureWriteZeroes) != 0 {
		t.Errorf("features %#x", f)
	}
	before := g.contents()
	for kind, out := range map[uint32][]byte{
		typeOut: make([]byte, sectorSize), typeDiscard: rawExtent(0, 1, 0), typeWriteZeroes: rawExtent(0, 1, 0),
	} {
		if _, status, _ := g.do(kind, 0, out, 0); status != statusIOErr {
			t.Errorf("type %d: status %d", kind, status)
		}
	}
	if _, status, _ := g.do(typeFlush, 0, nil, 0); status != statusOK {
		t.Errorf("flush: status %d", status)
	}
	if !bytes.Equal(before, g.contents()) {
		t.Error("the file has changed")
	}
}

func TestAFileThatShrinksGivesIOErrors(t *testing.T) {
	g := start(t, Config{File: image(t, 8)}, allFeatures)
	if err := g.dev.disk.file.Truncate(3 * sectorSize); err != nil {
		t.Fatal(err)
	}
	if got, status, used := g.do(typeIn, 2, nil, 3*sectorSize); status != statusIOErr || used != sectorSize || got[0] != 2 {
		t.Errorf("status %d, used length %d", status, used)
	}
}

func TestOffences(t *testing.T) {
	for name, chain := range map[string][]virtiotest.Desc{
		"no status byte":  {{Addr: virtiotest.Base, Len: headerSize}},
		"empty status":    {{Addr: virtiotest.Base, Len: headerSize}, {Addr: virtiotest.Base, Len: 0, Writable: true}},
		"short header":    {{Addr: virtiotest.Base, Len: headerSize - 1}, {Addr: virtiotest.Base, Len: 1, Writable: true}},
		"no header":       {{Addr: virtiotest.Base, Len: 1, Writable: true}},
		"outside of RAM":  {{Addr: 0, Len: headerSize}, {Addr: virtiotest.Base, Len: 1, Writable: true}},
		"status in front": {{Addr: virtiotest.Base, Len: 1, Writable: true}, {Addr: virtiotest.Base, Len: headerSize}},
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, Config{File: image(t, 8)}, allFeatures)
			g.q[0].Submit(0, chain...)
			select {
			case err := <-g.tr.Failed:
				var guest *virtio.GuestError
				if !errors.As(err, &guest) {
					t.Errorf("not a guest error: %v", err)
				}
			case <-time.After(10 * time.Second):
				t.Error("the device did not fail")
			}
		})
	}
}

func TestConfigurationSpace(t *testing.T) {
	dev, err := New(Config{File: image(t, 1000), Queues: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if n := len(dev.Queues()); n != 4 || dev.Features()&featureMQ == 0 {
		t.Errorf("%d queues, features %#x", n, dev.Features())
	}
	var b [64]byte
	dev.WriteConfig([]byte{1, 2, 3, 4}, 0)
	dev.ReadConfig(b[:], 0)
	le := binary.LittleEndian
	for name, c := range map[string]struct{ got, want uint64 }{
		"capacity":                 {le.Uint64(b[0:]), 1000},
		"seg_max":                  {uint64(le.Uint32(b[12:])), 254},
		"blk_size":                 {uint64(le.Uint32(b[20:])), 512},
		"physical_block_exp":       {uint64(b[24]), 3},
		"num_queues":               {uint64(le.Uint16(b[34:])), 4},
		"max_discard_seg":          {uint64(le.Uint32(b[40:])), maxExtents},
		"discard_sector_alignment": {uint64(le.Uint32(b[44:])), 8},
		"max_write_zeroes_seg":     {uint64(le.Uint32(b[52:])), maxExtents},
		"write_zeroes_may_unmap":   {uint64(b[56]), 1},
		"beyond":                   {le.Uint64(b[56:]) >> 8, 0},
	} {
		if c.got != c.want {
			t.Errorf("%s is %d, want %d", name, c.got, c.want)
		}
	}
}

func TestNewNamesWhatIsWrong(t *testing.T) {
	open := func(path string, flags int) *os.File {
		f, err := os.OpenFile(path, flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	ro := image(t, 1)
	for want, cfg := range map[string]Config{
		"without a file":           {},
		"neither a regular file":   {File: open("/dev/null", os.O_RDWR)},
		"open for reading only":    {File: open(ro.Name(), os.O_RDONLY)},
		"open for writing only":    {File: open(ro.Name(), os.O_WRONLY)},
		"open as a path only":      {File: open(ro.Name(), unix.O_PATH), ReadOnly: true},
		"smaller than a sector":    {File: image(t, 0)},
		`serial "123456789012345`:  {File: image(t, 1), Serial: "123456789012345678901"},
		"65 queues":                {File: image(t, 1), Queues: 65},
		ro.Name() + ": open for r": {File: open(ro.Name(), os.O_RDONLY)},
	} {
		_, err := New(cfg)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
		if cfg.File != nil && cfg.File.Close() == nil {
			t.Errorf("%s: New left the file open", want)
		}
	}
	dev, err := New(Config{File: open(ro.Name(), os.O_RDONLY), ReadOnly: true, Serial: "12345678901234567890"})
	if err != nil {
		t.Fatal(err)
	}
	_ = dev.Close()
}
