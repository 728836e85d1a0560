package vsock

import (
	"io"
	"testing"
)

// The rings are driven without a guest, so these are the device's own costs.

func BenchmarkToHost(b *testing.B) {
	p := newPairs(b)
	g := newGuest(b, p, slots, 4096)
	g.send(on(7, opRequest), nil)
	g.expect(opResponse)
	host := <-p.ends
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{host}, make([]byte, 256<<10))
	}()
	payload := make([]byte, maxPayload)
	b.SetBytes(maxPayload)
	b.ReportAllocs()
	var sent, known uint32
	for b.Loop() {
		for sent-known > largeAlloc-maxPayload {
			known = g.receive().fwdCount
		}
		g.send(on(7, opData), payload)
		sent += maxPayload
	}
	_ = g.dev.Reset()
	<-drained
}

func BenchmarkToGuest(b *testing.B) {
	p := newPairs(b)
	g := newGuest(b, p, slots, 4096)
	g.send(on(7, opRequest), nil)
	g.expect(opResponse)
	host := <-p.ends
	go func() { _, _ = io.CopyBuffer(struct{ io.Writer }{host}, zeroes{}, make([]byte, 256<<10)) }()
	b.ReportAllocs()
	var got, told uint32
	const packet = 4096 - headerSize
	b.SetBytes(packet)
	for b.Loop() {
		for {
			head, n := g.rx.Used()
			g.post(head / perSlot)
			if n > headerSize {
				got += n - headerSize
				break
			}
		}
		if got-told > 16<<10 {
			h := on(7, opCreditUpdate)
			h.bufAlloc, h.fwdCount = 256<<10, got
			told = got
			g.send(h, nil)
		}
	}
	_ = g.dev.Reset()
}
