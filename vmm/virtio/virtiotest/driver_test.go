package virtiotest

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/huskvm/husk/vmm/virtio/queue"
)

func TestAllocationsDoNotOverlap(t *testing.T) {
	d := NewDriver(t, 1<<20)
	a, b, c := d.Alloc(5), d.Put([]byte("bytes")), d.Alloc(5000)
	if a%16 != 0 || b%16 != 0 || c%4096 != 0 || b < a+5 || c < b+5 {
		t.Errorf("%#x, %#x, %#x", a, b, c)
	}
	if !bytes.Equal(d.Bytes(b, 5), []byte("bytes")) {
		t.Error("Put put something else")
	}
}

func TestUsedWithinKeepsItsDeadline(t *testing.T) {
	q := NewDriver(t, 1<<20).NewQueue(4)
	if _, _, err := q.UsedWithin(time.Millisecond); !errors.Is(err, ErrNothingUsed) {
		t.Error(err)
	}
}

func TestTheDriverKicksOnlyWhenAsked(t *testing.T) {
	for _, eventIdx := range []bool{true, false} {
		d := NewDriver(t, 1<<20)
		q := d.NewQueue(8)
		q.Config.EventIdx = eventIdx
		dev, err := queue.New(d.Memory, q.Config)
		if err != nil {
			t.Fatal(err)
		}
		rung := func() bool {
			was := q.kick.rung
			q.kick.rung = false
			return was
		}
		submit := func() { q.Submit(0, Desc{Addr: Base, Len: 1}) }
		if submit(); !rung() {
			t.Error("the first chain came without a kick")
		}
		dev.DisableKicks()
		if submit(); rung() {
			t.Error("a kick that nobody asked for")
		}
		for range 2 {
			if _, err := dev.Pop(); err != nil {
				t.Fatal(err)
			}
		}
		dev.EnableKicks()
		if submit(); !rung() {
			t.Error("no kick though the device asked")
		}
	}
}
