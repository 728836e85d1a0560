package blk

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// loop makes a block device with blocks of 4096 bytes of f. It goes away with its last descriptor.
func loop(t *testing.T, f *os.File) *os.File {
	t.Helper()
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no loop devices here: %v", err)
	}
	defer ctl.Close()
	cfg := unix.LoopConfig{Fd: uint32(f.Fd()), Size: 4096, Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
	for range 10 { // somebody else may take the free one first
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Skipf("no free loop device: %v", err)
		}
		dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			t.Skipf("no loop device node: %v", err)
		}
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &cfg)
		if err == nil {
			return dev
		}
		_ = dev.Close()
		if err != unix.EBUSY {
			t.Skipf("configure a loop device: %v", err)
		}
	}
	t.Skip("no loop device stays free")
	return nil
}

func TestABlockDeviceOfTheHost(t *testing.T) {
	f := image(t, 512)
	defer f.Close()
	g := start(t, Config{File: loop(t, f)}, allFeatures)
	if n, size := g.dev.disk.sectors, g.dev.config.blockSize; n != 512 || size != 4096 {
		t.Fatalf("%d sectors, blocks of %d bytes", n, size)
	}
	want := g.contents()
	data := bytes.Repeat([]byte("block"), 4096)[:16384]
	copy(want[8*sectorSize:], data)
	if _, status, _ := g.do(typeOut, 8, data, 0); status != statusOK {
		t.Fatalf("write: status %d", status)
	}
	for at, c := range map[uint64]struct{ kind, flags uint32 }{
		16: {typeDiscard, 0}, 48: {typeWriteZeroes, 0}, 64: {typeWriteZeroes, flagUnmap},
	} {
		clear(want[at*sectorSize : (at+8)*sectorSize])
		if _, status, _ := g.do(c.kind, 0, rawExtent(at, 8, c.flags), 0); status != statusOK {
			t.Errorf("type %d: status %d", c.kind, status)
		}
	}
	if _, status, _ := g.do(typeFlush, 0, nil, 0); status != statusOK {
		t.Errorf("flush: status %d", status)
	}
	got, status, _ := g.do(typeIn, 0, nil, 512*sectorSize)
	if status != statusOK || !bytes.Equal(got, want) {
		t.Errorf("read: status %d, equal %v", status, bytes.Equal(got, want))
	}
}
