package vsock

import (
	"context"
	"encoding/binary"
	"io"
	"strconv"
	"testing"
	"time"

	"github.com/huskvm/husk/vmm/virtio"
)

var _ virtio.Device = (*Device)(nil)

func TestConfigurationSpaceIsTheGuestsCID(t *testing.T) {
	d := New(Config{GuestCID: 0x1_0000_0003})
	var p [12]byte
	d.ReadConfig(p[:], 0)
	if got := binary.LittleEndian.Uint64(p[:]); got != 0x1_0000_0003 {
		t.Errorf("CID %#x", got)
	}
	if binary.LittleEndian.Uint32(p[8:]) != 0 {
		t.Error("something follows the CID")
	}
}

func TestAPacketOfNoConnectionIsReset(t *testing.T) {
	for _, tt := range []struct {
		name string
		h    header
	}{
		{"data", header{op: opData, size: 3}},
		{"response", header{op: opResponse}},
		{"shutdown", header{op: opShutdown, flags: shutBoth}},
		{"credit update", header{op: opCreditUpdate}},
		{"credit request", header{op: opCreditRequest}},
		{"operation 0", header{op: opInvalid}},
		{"unknown operation", header{op: 77}},
		{"seqpacket", header{op: opRequest, socketType: 2}},
		{"unknown type", header{op: opRequest, socketType: 99}},
		{"another CID's socket", header{op: opRequest, dstCID: 1}},
		{"a far CID", header{op: opRequest, dstCID: 1 << 40}},
		{"a forged sender", header{op: opRequest, srcCID: 4}},
		{"nobody listens", header{op: opRequest}},
		{"more data than there is", header{op: opData, size: 1 << 20}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGuest(t, hostFunc(nobody), 4, 256)
			h := tt.h
			h.srcPort, h.dstPort = 7, 8
			g.send(h, []byte("abc"))
			r := g.expect(opReset)
			want := header{
				srcCID: hostCID, dstCID: testCID, srcPort: 8, dstPort: 7, socketType: typeStream, op: opReset,
			}
			if h.dstCID != 0 {
				want.srcCID = h.dstCID
			}
			if h.srcCID != 0 {
				want.dstCID = h.srcCID
			}
			if h.socketType != 0 {
				want.socketType = h.socketType
			}
			r.bufAlloc, r.fwdCount = 0, 0
			if r.header != want {
				t.Errorf("answer %+v, want %+v", r.header, want)
			}
			g.quiet()
		})
	}
}

func TestRSTIsNeverAnswered(t *testing.T) {
	g := newGuest(t, hostFunc(nobody), 4, 256)
	g.send(on(7, opReset), nil)
	g.send(header{op: opReset, dstCID: 9, socketType: 9}, nil)
	g.quiet()
}

func TestTruncatedHeadersAreDropped(t *testing.T) {
	g := newGuest(t, hostFunc(nobody), 4, 256)
	for n := range headerSize {
		g.sendBytes(make([]byte, n))
	}
	g.quiet()
}

func TestWhatBreaksTheRulesResetsItsConnection(t *testing.T) {
	for _, tt := range []struct {
		name string
		h    header
		data int
	}{
		{"second request", on(7, opRequest), 0},
		{"response to nothing", on(7, opResponse), 0},
		{"operation 0", on(7, opInvalid), 0},
		{"unknown operation", on(7, 4711), 0},
		{"more data than there is", header{srcPort: 7, dstPort: hostPort, op: opData, size: 100}, 99},
		{"size beyond everything", header{srcPort: 7, dstPort: hostPort, op: opData, size: 1<<32 - 1}, 99},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPairs(t)
			g := newGuest(t, p, 4, 256)
			host := g.open(p, 7)
			other := g.open(p, 6)
			g.send(tt.h, make([]byte, tt.data))
			if r := g.expect(opReset); r.dstPort != 7 || r.srcPort != hostPort {
				t.Errorf("reset %+v", r.header)
			}
			wantEnd(t, host)
			g.send(on(6, opData), []byte("alive"))
			wantRead(t, other, "alive")
			g.send(on(7, opData), []byte("late"))
			g.expect(opReset) // it is of no connection now
			g.quiet()
		})
	}
}

func TestDataBeyondTheCreditResetsTheConnection(t *testing.T) {
	p := newPairs(t)
	g := newGuest(t, p, 8, 256)
	host := g.open(p, 7)
	sent := uint64(0)
	for range 100 {
		// Without a look at the device's counts: the socket takes its part, the backlog the rest, then it ends.
		g.send(on(7, opData), make([]byte, maxPayload))
		sent += maxPayload
	}
	for {
		if r := g.receive(); r.op == opReset && r.dstPort == 7 {
			break
		} else if r.op != opCreditUpdate {
			t.Fatalf("unexpected %+v", r.header)
		}
	}
	got, _ := io.Copy(io.Discard, host)
	if got == 0 || uint64(got) >= sent {
		t.Errorf("host has read %d of %d bytes", got, sent)
	}
}

func TestCreditIsExact(t *testing.T) {
	p := newPairs(t)
	g := newGuest(t, p, 8, 4096)
	host := g.open(p, 7)
	fwd := uint32(0)
	for i := range 40 {
		g.send(on(7, opData), make([]byte, 10000+i))
		fwd += 10000 + uint32(i)
		if _, err := io.CopyN(io.Discard, host, 10000+int64(i)); err != nil {
			t.Fatal(err)
		}
		g.settled()
		g.send(on(7, opCreditRequest), nil)
		r := g.expect(opCreditUpdate)
		for r.fwdCount != fwd { // one that was due anyway
			r = g.expect(opCreditUpdate)
		}
		if r.bufAlloc != largeAlloc {
			t.Errorf("buf_alloc %d", r.bufAlloc)
		}
	}
}

func TestTheGuestsCreditIsNeverExceeded(t *testing.T) {
	p := newPairs(t)
	g := newGuest(t, p, 8, 4096)
	host := g.open(p, 7)
	go func() { _, _ = host.Write(make([]byte, 256<<10)) }()
	got := 0
	for got < 64<<10 {
		got += len(g.expect(opData).data)
	}
	if got != 64<<10 {
		t.Errorf("%d bytes on a credit of %d", got, 64<<10)
	}
	g.expect(opCreditRequest) // once
	g.quiet()

	h := on(7, opCreditUpdate)
	h.fwdCount = 5
	g.send(h, nil)
	if r := g.expect(opData); r.size != 5 {
		t.Errorf("%d bytes on a credit of 5", r.size)
	}
	g.expect(opCreditRequest)

	// Counts that go backwards, or beyond what was sent, earn nothing.
	for _, fwd := range []uint32{4, 1 << 31, uint32(got) + 100} {
		h.fwdCount = fwd
		g.send(h, nil)
		g.quiet()
	}
}

func TestConnectionsAreLimited(t *testing.T) {
	p := newPairs(t)
	g := newGuest(t, p, slots, 64)
	for i := range uint32(maxConns) {
		g.open(p, 1000+i)
	}
	g.send(on(50, opRequest), nil)
	if r := g.expect(opReset); r.dstPort != 50 {
		t.Errorf("reset %+v", r.header)
	}
	device, _ := pair(t)
	if err := g.dev.Connect(context.Background(), device, 1, nil); err != ErrRefused {
		t.Errorf("connect: %v, want %v", err, ErrRefused)
	}
	g.send(on(1000, opReset), nil)
	g.open(p, 51)
}

func TestAFloodWithoutBuffersForAnswersIsBounded(t *testing.T) {
	g := newGuest(t, hostFunc(nobody), 0, 256)
	for i := range uint32(5000) {
		o := opData
		if i%2 == 0 {
			o = opRequest
		}
		g.send(header{srcPort: i, dstPort: i, op: o}, nil)
	}
	g.settled()
	m := g.dev.mux
	m.mu.Lock()
	if len(m.resets) > maxResets || len(m.all) > maxConns {
		t.Errorf("%d resets and %d connections are held", len(m.resets), len(m.all))
	}
	m.mu.Unlock()
	// It still works for a guest that comes to its senses.
	for i := range slots {
		g.post(uint16(i))
	}
	for range maxResets {
		g.expect(opReset)
	}
}

func TestConnectionsThatOnlyWaitForBuffersCount(t *testing.T) {
	accept := func(context.Context, uint32) (Conn, error) {
		device, _ := pair(t)
		return device, nil
	}
	g := newGuest(t, hostFunc(accept), 0, 256)
	for i := range uint32(maxConns + 100) {
		g.send(on(1000+i, opRequest), nil)
		if i < maxConns {
			eventually(t, "host has answered", func() bool {
				m := g.dev.mux
				m.mu.Lock()
				defer m.mu.Unlock()
				c := m.table[address{1000 + i, hostPort}]
				return c != nil && c.phase == open
			})
		}
		g.send(on(1000+i, opReset), nil)
		g.settled()
	}
	if n := conns(g.dev); n != maxConns {
		t.Errorf("%d connections, want %d", n, maxConns)
	}
	g.post(0)
	for range 100 {
		g.expect(opReset)
	}
	eventually(t, "what the guest has reset is forgotten", func() bool { return conns(g.dev) == 0 })
}

func TestARxBufferWithoutRoomIsAnOffence(t *testing.T) {
	g := newGuest(t, hostFunc(nobody), 0, 256)
	g.rx.Submit(0)
	select {
	case <-g.failed.Failed:
	case <-time.After(deadline):
		t.Fatal("the device has not failed")
	}
}

func TestResetWithLiveConnectionsLeavesNothing(t *testing.T) {
	p := newPairs(t)
	g := newGuest(t, hostFunc(func(ctx context.Context, port uint32) (Conn, error) {
		if port == 1 {
			<-ctx.Done() // a host that never answers
			return nil, ctx.Err()
		}
		return p.Dial(ctx, port)
	}), 8, 4096)
	g.send(header{srcPort: 5, dstPort: 1, op: opRequest}, nil)
	idle, busy, reading := g.open(p, 6), g.open(p, 7), g.open(p, 8)
	for range 7 { // fill socket and backlog
		g.send(on(7, opData), make([]byte, maxPayload))
	}
	go func() { _, _ = io.Copy(reading, zeroes{}) }() // fills the guest's buffers
	device, ours := pair(t)
	refused := make(chan error)
	go func() { refused <- g.dev.Connect(context.Background(), device, 9, nil) }()
	g.settled()

	if err := g.dev.Reset(); err != nil {
		t.Fatal(err)
	}
	if err := <-refused; err == nil {
		t.Error("Connect has not failed")
	}
	wantEnd(t, idle)
	wantEnd(t, ours)
	if _, err := io.Copy(io.Discard, busy); err != nil {
		t.Errorf("host reads: %v", err)
	}
	wantNoGoroutines(t)
	if err := g.dev.Reset(); err != nil {
		t.Errorf("second reset: %v", err)
	}

	g.activate(8)
	g.send(on(6, opData), nil)
	g.expect(opReset) // nothing of old
	host := g.open(p, 6)
	g.send(on(6, opData), []byte("again"))
	wantRead(t, host, "again")
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { return len(p), nil }

func TestCountsWrap(t *testing.T) {
	const start = 1<<32 - 10
	c := credit{guestAlloc: 100, guestForwarded: start, sent: start, alloc: 50, received: start, forwarded: start, told: start}
	for _, tt := range []struct {
		n  uint32
		ok bool
	}{{50, true}, {1, false}, {0, true}} {
		if got := c.receive(tt.n); got != tt.ok {
			t.Errorf("receive %d: %v", tt.n, got)
		}
	}
	c.forward(20)
	if c.pending() != 30 || c.forwarded != 10 || !c.updateDue() {
		t.Errorf("after 20 of 50: %+v", c)
	}
	c.sent += 90
	if c.room() != 10 {
		t.Errorf("room %d, want 10", c.room())
	}
	for _, tt := range []struct{ alloc, fwd, room uint32 }{
		{100, 10, 30}, // 20 of 90 forwarded
		{100, 5, 30},  // overtaken
		{100, 81, 30}, // more than was sent
		{70, 10, 0},   // shrunk to what is in flight
		{5, 10, 0},    // and below
		{100, 80, 100},
	} {
		c.heard(tt.alloc, tt.fwd)
		if c.room() != tt.room {
			t.Errorf("after %+v: room %d", tt, c.room())
		}
	}
}

func TestEveryStateReactsToEveryOperation(t *testing.T) {
	want := map[phase]string{ // by operation, from 0, then an unknown one
		dialling:  "RRR-RRiRR",
		requested: "RRE-RRRRR",
		open:      "RRR-sti?R",
		resetting: "iii-iiiii",
	}
	letters := map[reaction]byte{refuse: 'R', ignore: 'i', establish: 'E', abandon: '-', shut: 's', take: 't', answer: '?'}
	for p, row := range want {
		for i := range row {
			s := stream{phase: p}
			if got := letters[s.receive(&header{op: op(i)})]; got != row[i] {
				t.Errorf("phase %d, operation %s: %c, want %c", p, strconv.Itoa(i), got, row[i])
			}
		}
	}
}
