package rng

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/virtiotest"
)

func start(t *testing.T) (*virtiotest.Driver, *virtiotest.Queue, *virtiotest.Transport) {
	t.Helper()
	d := virtiotest.NewDriver(t, 1<<20)
	q := d.NewQueue(16)
	dev := New()
	a, tr := d.Activation(0, q)
	if err := dev.Activate(a); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dev.Reset() })
	return d, q, tr
}

func TestEveryBufferOfARequestIsFilled(t *testing.T) {
	d, q, _ := start(t)
	a, b := d.Alloc(32), d.Alloc(100)
	q.Submit(0, virtiotest.Desc{Addr: a, Len: 32, Writable: true}, virtiotest.Desc{Addr: b, Len: 100, Writable: true})
	if _, n := q.Used(); n != 132 {
		t.Errorf("used length %d, want 132", n)
	}
	for _, p := range [][]byte{d.Bytes(a, 32), d.Bytes(b, 100)} {
		if bytes.Count(p, []byte{0}) == len(p) {
			t.Errorf("%d bytes are all zero", len(p))
		}
	}
}

func TestTwoRequestsDiffer(t *testing.T) {
	d, q, _ := start(t)
	a, b := d.Alloc(32), d.Alloc(32)
	q.Submit(0, virtiotest.Desc{Addr: a, Len: 32, Writable: true})
	q.Used()
	q.Submit(1, virtiotest.Desc{Addr: b, Len: 32, Writable: true})
	q.Used()
	if bytes.Equal(d.Bytes(a, 32), d.Bytes(b, 32)) {
		t.Error("the same bytes twice")
	}
}

func TestARequestIsBounded(t *testing.T) {
	d, q, _ := start(t)
	const size = 256 << 10
	a := d.Alloc(size)
	q.Submit(0, virtiotest.Desc{Addr: a, Len: size, Writable: true})
	if _, n := q.Used(); n != maxFill {
		t.Errorf("used length %d, want %d", n, maxFill)
	}
	if rest := d.Bytes(a, size)[maxFill:]; bytes.Count(rest, []byte{0}) != len(rest) {
		t.Error("written beyond the used length")
	}
}

func TestOffences(t *testing.T) {
	for name, desc := range map[string]virtiotest.Desc{
		"readable buffer (§5.4.6.1)": {Addr: virtiotest.Base, Len: 16},
		"no room":                    {Addr: virtiotest.Base, Len: 0, Writable: true},
		"outside of memory":          {Addr: 1 << 40, Len: 16, Writable: true},
	} {
		t.Run(name, func(t *testing.T) {
			_, q, tr := start(t)
			q.Submit(0, desc)
			var guest *virtio.GuestError
			select {
			case err := <-tr.Failed:
				if !errors.As(err, &guest) {
					t.Errorf("not a guest error: %v", err)
				}
			case <-time.After(10 * time.Second):
				t.Error("the device did not fail")
			}
		})
	}
}

func TestWorksAgainAfterReset(t *testing.T) {
	d := virtiotest.NewDriver(t, 1<<20)
	dev := New()
	for range 3 {
		q := d.NewQueue(4)
		a, _ := d.Activation(0, q)
		if err := dev.Activate(a); err != nil {
			t.Fatal(err)
		}
		q.Submit(0, virtiotest.Desc{Addr: d.Alloc(16), Len: 16, Writable: true})
		q.Used()
		for range 2 { // idempotent
			if err := dev.Reset(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
