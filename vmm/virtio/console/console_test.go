package console

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/virtiotest"
)

type guest struct {
	*virtiotest.Driver
	rx, tx *virtiotest.Queue
	tr     *virtiotest.Transport
}

func activate(t *testing.T, dev *Device) *guest {
	t.Helper()
	d := virtiotest.NewDriver(t, 4<<20)
	g := &guest{Driver: d, rx: d.NewQueue(16), tx: d.NewQueue(16)}
	var a *virtio.Activation
	a, g.tr = d.Activation(featureSize, g.rx, g.tx)
	if err := dev.Activate(a); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dev.Reset() })
	return g
}

func (g *guest) print(p []byte) {
	g.tx.Submit(0, virtiotest.Desc{Addr: g.Put(p), Len: uint32(len(p))})
	g.tx.Used()
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func TestOutputGoesToRingAndLive(t *testing.T) {
	var ring Ring
	var out buffer
	dev := New(Config{Ring: &ring, Output: &out})
	g := activate(t, dev)
	a, b := g.Put([]byte("hello, ")), g.Put([]byte("world\n"))
	g.tx.Submit(0, virtiotest.Desc{Addr: a, Len: 7}, virtiotest.Desc{Addr: b, Len: 6})
	if _, n := g.tx.Used(); n != 0 {
		t.Errorf("used length %d, want 0", n)
	}
	if err := errors.Join(dev.Reset(), dev.Close()); err != nil {
		t.Fatal(err)
	}
	if got := string(ring.Tail()); got != "hello, world\n" {
		t.Errorf("ring: %q", got)
	}
	if got := out.b.String(); got != "hello, world\n" {
		t.Errorf("live: %q", got)
	}
}

func TestASlowReaderThatGoesOnLosesNothing(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	dev := New(Config{Output: w})
	g := activate(t, dev)
	want := bytes.Repeat([]byte("0123456789abcdef"), 32<<10) // 512 KiB: more than pipe and buffer hold
	got := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(r)
		got <- b
	}()
	g.print(want)
	_ = dev.Reset()
	_ = dev.Close()
	_ = w.Close()
	if b := <-got; !bytes.Equal(b, want) {
		t.Errorf("read %d bytes of %d", len(b), len(want))
	}
}

func TestADeadReaderDoesNotHoldTheGuest(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	var ring Ring
	dev := New(Config{Ring: &ring, Output: w})
	g := activate(t, dev)
	start := time.Now()
	burst := bytes.Repeat([]byte{'x'}, 256<<10)
	for range 4 { // waits once, not every time
		g.tx.Submit(0, virtiotest.Desc{Addr: g.Put(burst), Len: uint32(len(burst))})
		g.tx.Used()
	}
	g.print([]byte("last words"))
	if took := time.Since(start); took > 3*patience {
		t.Errorf("the guest was held for %v", took)
	}
	if !bytes.HasSuffix(ring.Tail(), []byte("last words")) {
		t.Error("the ring lost the last words")
	}
	_ = dev.Reset()
	start = time.Now()
	_ = dev.Close()
	if took := time.Since(start); took > 3*patience {
		t.Errorf("Close took %v", took)
	}
}

func TestAReaderThatWentAwayIsForgotten(t *testing.T) {
	r, w := io.Pipe()
	_ = r.Close()
	var ring Ring
	dev := New(Config{Ring: &ring, Output: w})
	g := activate(t, dev)
	for range 8 {
		g.print(bytes.Repeat([]byte{'x'}, 64<<10))
	}
	if len(ring.Tail()) != RingSize {
		t.Errorf("ring has %d bytes", len(ring.Tail()))
	}
	_ = dev.Reset()
	_ = dev.Close()
}

func TestResetInterruptsOutputToAStuckReader(t *testing.T) {
	r, w := io.Pipe()
	defer r.Close()
	dev := New(Config{Output: w})
	g := activate(t, dev)
	big := bytes.Repeat([]byte{'x'}, 256<<10)
	g.tx.Submit(0, virtiotest.Desc{Addr: g.Put(big), Len: uint32(len(big))})
	done := make(chan struct{})
	go func() { _ = dev.Reset(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience * 3 / 2):
		t.Error("Reset waits for the reader")
	}
	_ = w.Close() // ends the Write the device is in
}

func TestInputIsDeliveredAcrossBuffersAndResets(t *testing.T) {
	r, w := io.Pipe()
	dev := New(Config{Input: r})
	g := activate(t, dev)
	small := g.Alloc(4)
	g.rx.Submit(0, virtiotest.Desc{Addr: small, Len: 4, Writable: true})
	_, _ = w.Write([]byte("ls -l\n"))
	if _, n := g.rx.Used(); n != 4 || string(g.Bytes(small, 4)) != "ls -" {
		t.Errorf("got %q", g.Bytes(small, int(n)))
	}
	_ = dev.Reset()

	g = activate(t, dev)
	buf := g.Alloc(16)
	g.rx.Submit(0, virtiotest.Desc{Addr: buf, Len: 16, Writable: true})
	if _, n := g.rx.Used(); string(g.Bytes(buf, int(n))) != "l\n" {
		t.Errorf("after the reset: %q", g.Bytes(buf, int(n)))
	}
	_ = w.Close()
	_ = dev.Reset()
	_ = dev.Close()
}

func TestResetEndsReceiveWhileInputBlocks(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	dev := New(Config{Input: r})
	activate(t, dev)
	if err := dev.Reset(); err != nil {
		t.Fatal(err)
	}
	_ = dev.Close()
}

func TestResizeChangesTheConfiguration(t *testing.T) {
	dev := New(Config{Columns: 80, Rows: 25})
	g := activate(t, dev)
	dev.Resize(132, 43)
	<-g.tr.Changed
	var b [8]byte
	dev.ReadConfig(b[:], 0)
	if b != [8]byte{132, 0, 43} {
		t.Errorf("configuration %v", b)
	}
}

func TestOffences(t *testing.T) {
	dev := New(Config{Input: bytes.NewReader([]byte("x"))})
	t.Run("output with a writable buffer (§5.3.6.1)", func(t *testing.T) {
		g := activate(t, dev)
		g.tx.Submit(0, virtiotest.Desc{Addr: virtiotest.Base, Len: 1, Writable: true})
		<-g.tr.Failed
	})
	t.Run("input without room", func(t *testing.T) {
		g := activate(t, dev)
		g.rx.Submit(0, virtiotest.Desc{Addr: virtiotest.Base, Len: 1})
		<-g.tr.Failed
	})
}

func TestRingKeepsTheTail(t *testing.T) {
	var all []byte
	var r Ring
	for i, n := range []int{0, 1, 1000, RingSize - 1001, 1, 70000, 3, RingSize, RingSize + 1, 12345} {
		p := bytes.Repeat([]byte{byte(i + 1)}, n)
		if n > 2 {
			p[0], p[n-1] = 0xfe, 0xff
		}
		if k, err := r.Write(p); k != n || err != nil {
			t.Fatalf("Write: %d, %v", k, err)
		}
		all = append(all, p...)
		if want := all[max(0, len(all)-RingSize):]; !bytes.Equal(r.Tail(), want) {
			t.Fatalf("after write %d of %d bytes the tail is wrong", i, n)
		}
	}
}

func TestRingIsSafeForConcurrentUse(t *testing.T) {
	var r Ring
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				_, _ = r.Write(make([]byte, 3000))
				_ = r.Tail()
			}
		})
	}
	wg.Wait()
	if len(r.Tail()) != RingSize {
		t.Error("ring is not full")
	}
}
