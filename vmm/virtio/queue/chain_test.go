package queue_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"testing"

	"github.com/huskvm/husk/vmm/memory"
	"github.com/huskvm/husk/vmm/virtio/queue"
	"github.com/huskvm/husk/vmm/virtio/virtiotest"
)

// chain is one of "hello world" in three readable pieces, one of them empty, and room for 3 + 0 + 5 bytes.
func chain(t *testing.T) (*pair, *queue.Chain, func() []byte) {
	t.Helper()
	p := newPair(t, 8)
	text, room := p.d.Put([]byte("hello world")), p.d.Alloc(8)
	p.Submit(0,
		virtiotest.Desc{Addr: text, Len: 4}, virtiotest.Desc{Addr: text, Len: 0}, virtiotest.Desc{Addr: text + 4, Len: 7},
		virtiotest.Desc{Addr: room, Len: 3, Writable: true}, virtiotest.Desc{Addr: room, Len: 0, Writable: true},
		virtiotest.Desc{Addr: room + 3, Len: 5, Writable: true})
	return p, p.pop(t), func() []byte { return p.d.Bytes(room, 8) }
}

func TestReadingCrossesSegments(t *testing.T) {
	_, c, _ := chain(t)
	b := make([]byte, 6)
	if n, err := io.ReadFull(c, b); err != nil || string(b[:n]) != "hello " {
		t.Errorf("%q, %v", b[:n], err)
	}
	if c.ReadableLen() != 5 {
		t.Errorf("%d left", c.ReadableLen())
	}
	c.Consumed(1)
	if rest, err := io.ReadAll(c); err != nil || string(rest) != "orld" {
		t.Errorf("%q, %v", rest, err)
	}
	if n, err := c.Read(b); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
	if n, err := c.Read(nil); n != 0 || err != nil {
		t.Errorf("reading nothing: %d, %v", n, err)
	}
}

func TestWritingCrossesSegmentsAndIsCounted(t *testing.T) {
	p, c, room := chain(t)
	if n, err := c.Write([]byte("ab")); n != 2 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	copy(c.Writable()[0], "c")
	c.Filled(1)
	if n, err := c.Write([]byte("defghijk")); n != 5 || !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("%d, %v", n, err)
	}
	if !bytes.Equal(room(), []byte("abcdefgh")) || c.Written() != 8 || c.WritableLen() != 0 {
		t.Errorf("%q, written %d, left %d", room(), c.Written(), c.WritableLen())
	}
	p.dev.Push(c)
	if _, n := p.Used(); n != 8 {
		t.Errorf("used length %d", n)
	}
}

func TestClaimsBeyondTheChainAreCut(t *testing.T) {
	_, c, _ := chain(t)
	c.Consumed(math.MaxUint64)
	c.Filled(math.MaxUint64)
	if c.ReadableLen() != 0 || c.WritableLen() != 0 || c.Written() != 8 {
		t.Errorf("%d, %d, %d", c.ReadableLen(), c.WritableLen(), c.Written())
	}
	if len(c.Readable()) != 0 || len(c.Writable()) != 0 {
		t.Error("segments are left")
	}
}

func TestAChainIsCleanWhenUsedAgain(t *testing.T) {
	p, c, _ := chain(t)
	_, _ = c.Write([]byte("abc"))
	p.dev.Push(c)
	p.Used()
	p.Submit(0, virtiotest.Desc{Addr: p.d.Alloc(1), Len: 1})
	c = p.pop(t)
	if c.ReadableLen() != 1 || c.WritableLen() != 0 || c.Written() != 0 {
		t.Errorf("%d, %d, %d", c.ReadableLen(), c.WritableLen(), c.Written())
	}
}

// The used length is 32 bits, so a chain must not have room for more (§2.7.5: at most 2^32 bytes).
func TestAChainOfMoreThan4GiBIsAnOffence(t *testing.T) {
	const size = 64 << 20
	ram, err := memory.Map(size) // never touched but for the rings
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = memory.Unmap(ram) }()
	mem, err := memory.NewSpace(memory.Region{Base: 0, Bytes: ram})
	if err != nil {
		t.Fatal(err)
	}
	for n, ok := range map[int]bool{63: true, 64: false} {
		q, err := queue.New(mem, queue.Config{Size: 128, Desc: 0, Driver: 0x10000, Device: 0x20000})
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			d := ram[16*i : 16*i+16]
			copy(d, []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, flagNext | flagWrite, 0, byte(i + 1)}) // 64 MiB at 0
			if i == n-1 {
				d[12] = flagWrite
			}
		}
		ram[0x10002] = 1
		_, err = q.Pop()
		if ok != (err == nil) {
			t.Errorf("%d × 64 MiB: %v", n, err)
		}
		if !ok {
			offence(t, err, "more than 4 GiB")
		}
	}
}
