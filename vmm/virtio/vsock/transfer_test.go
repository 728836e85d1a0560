package vsock

import (
	"crypto/sha256"
	"hash"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// source is n reproducible bytes.
func source(seed byte, n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{seed}), n)
}

func sumOf(t testing.TB, r io.Reader) []byte {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		t.Errorf("read: %v", err)
	}
	return h.Sum(nil)
}

// slow hands on few bytes at a time, and yields.
type slow struct{ hash.Hash }

func (s slow) Write(p []byte) (int, error) {
	time.Sleep(50 * time.Microsecond)
	return s.Hash.Write(p)
}

// exchange sends n bytes both ways at once over one connection, and closes it cleanly from both sides.
func exchange(t *testing.T, rxSize int, alloc uint32, n int64, slowHost, slowGuest bool) {
	p := newPairs(t)
	s := newStack(newGuest(t, p, slots, rxSize))
	k := s.dial(40000, alloc)
	host := p.end()
	want := [2]string{string(sumOf(t, source(1, n))), string(sumOf(t, source(2, n)))}

	var wg sync.WaitGroup
	failed := func(who string, err error) {
		t.Errorf("%s: %v", who, err)
		_ = host.Close() // or the other three wait for what will never come
	}
	wg.Go(func() {
		if _, err := io.Copy(struct{ io.Writer }{host}, source(1, n)); err != nil {
			failed("host writes", err)
		}
		_ = host.CloseWrite()
	})
	wg.Go(func() {
		if _, err := io.Copy(k, source(2, n)); err != nil {
			failed("guest writes", err)
		}
		k.say(opShutdown, shutSend, nil)
	})
	check := func(who string, r io.Reader, lazy bool, want string) {
		h := sha256.New()
		var w io.Writer = h
		if lazy {
			w = slow{h}
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, 16<<10)); err != nil {
			failed(who+" reads", err)
		}
		if string(h.Sum(nil)) != want {
			t.Errorf("%s has read other than what was written", who)
		}
	}
	wg.Go(func() { check("host", host, slowHost, want[1]) })
	wg.Go(func() { check("guest", k, slowGuest, want[0]) })
	wg.Wait()

	// Both halves are at their end: the device says so, and the guest confirms.
	eventually(t, "SHUTDOWN of both halves", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.shut == shutBoth
	})
	k.say(opReset, 0, nil)
	s.stop()
	eventually(t, "connection is forgotten", func() bool { return conns(s.dev) == 0 })
}

// conns is the number of connections of d, those included that only the host knows.
func conns(d *Device) int {
	d.mux.mu.Lock()
	defer d.mux.mu.Unlock()
	return len(d.mux.all)
}

func size(t *testing.T, n int64) int64 {
	if testing.Short() {
		return n / 8
	}
	return n
}

func TestBothDirectionsAtOnceArriveWhole(t *testing.T) {
	exchange(t, 512, 256<<10, size(t, 64<<20), false, false)
}

func TestLargeBuffersArriveWhole(t *testing.T) {
	exchange(t, 4096+headerSize, 256<<10, size(t, 64<<20), false, false)
}

func TestSlowHostAndSlowGuestLoseNothing(t *testing.T) {
	for _, tt := range []struct {
		name        string
		host, guest bool
	}{{"host", true, false}, {"guest", false, true}, {"both", true, true}} {
		t.Run(tt.name, func(t *testing.T) { exchange(t, 4096, 64<<10, size(t, 16<<20), tt.host, tt.guest) })
	}
}

func TestTinyCreditIsEnough(t *testing.T) {
	exchange(t, 4096, 100, 64<<10, false, false)
}

func TestASlowHostDoesNotHoldUpOthers(t *testing.T) {
	p := newPairs(t)
	s := newStack(newGuest(t, p, slots, 4096))
	stuck := s.dial(40000, 64<<10)
	p.end() // never read

	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(stuck, source(1, 8<<20))
	}()
	eventually(t, "the first connection is stuck", func() bool {
		stuck.mu.Lock()
		defer stuck.mu.Unlock()
		return stuck.sent-stuck.peer.fwdCount == stuck.peer.bufAlloc
	})

	k := s.dial(40001, 64<<10)
	host := p.end()
	go func() {
		_, _ = io.Copy(k, source(2, 4<<20))
		k.say(opShutdown, shutBoth, nil)
	}()
	if got, want := sumOf(t, struct{ io.Reader }{host}), sumOf(t, source(2, 4<<20)); string(got) != string(want) {
		t.Error("host has read other than what was written")
	}
	k.waitReset()
	stuck.say(opReset, 0, nil)
	s.stop()
	_ = s.dev.Reset()
	stuck.mu.Lock()
	stuck.reset = true
	stuck.cond.Broadcast()
	stuck.mu.Unlock()
	<-done
}

func TestConnectionsTakeTurns(t *testing.T) {
	const n, each = 8, 64 << 10
	p := newPairs(t)
	g := newGuest(t, p, 8, 4096) // few buffers, and none comes back before it is received below
	var hosts []io.Writer
	for i := range uint32(n) {
		hosts = append(hosts, g.open(p, 40000+i))
	}
	for i := range uint32(n) {
		h := on(40000+i, opCreditUpdate)
		h.bufAlloc = 0
		g.send(h, nil)
	}
	g.settled()
	for _, host := range hosts {
		if _, err := host.Write(make([]byte, each)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all wait for credit", func() bool {
		m := g.dev.mux
		m.mu.Lock()
		defer m.mu.Unlock()
		for c := range m.all {
			if !c.starved {
				return false
			}
		}
		return true
	})
	for i := range uint32(n) {
		g.send(on(40000+i, opCreditUpdate), nil)
	}
	g.settled()

	got := map[uint32]int{}
	for done := 0; done < n; {
		pk := g.receive()
		if pk.op != opData {
			continue
		}
		if got[pk.dstPort] += len(pk.data); got[pk.dstPort] == each {
			if done++; len(got) < n {
				t.Fatalf("port %d has all its data and only %d ports had a turn", pk.dstPort, len(got))
			}
		}
	}
}
