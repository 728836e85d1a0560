package vsock

import (
	"bytes"
	"context"
	"io"
	"testing"
)

func TestTheGuestsLastBytesReachASlowHost(t *testing.T) {
	p := newPairs(t)
	s := newStack(newGuest(t, p, 8, 4096))
	k := s.dial(40000, 64<<10)
	host := p.end()
	// More than the socket takes: the rest waits in the device while the guest is gone already.
	const n = 300 << 10
	if _, err := io.Copy(k, source(1, n)); err != nil {
		t.Fatal(err)
	}
	k.say(opShutdown, shutBoth, nil)
	k.say(opReset, 0, nil) // impatient, as Linux is after eight seconds
	s.settled()
	if got, want := sumOf(t, struct{ io.Reader }{host}), sumOf(t, source(1, n)); !bytes.Equal(got, want) {
		t.Error("host has read other than what was written")
	}
	s.stop()
	eventually(t, "connection is forgotten", func() bool { return conns(s.dev) == 0 })
}

func TestACleanCloseIsConfirmedOnceTheHostHasAll(t *testing.T) {
	p := newPairs(t)
	s := newStack(newGuest(t, p, 8, 4096))
	k := s.dial(40000, 64<<10)
	host := p.end()
	const n = 300 << 10
	if _, err := io.Copy(k, source(1, n)); err != nil {
		t.Fatal(err)
	}
	k.say(opShutdown, shutBoth, nil)
	s.settled()
	k.mu.Lock()
	if k.reset {
		t.Error("RST while data is on its way")
	}
	k.mu.Unlock()
	if got, want := sumOf(t, struct{ io.Reader }{host}), sumOf(t, source(1, n)); !bytes.Equal(got, want) {
		t.Error("host has read other than what was written")
	}
	k.waitReset()
	s.stop()
	eventually(t, "connection is forgotten", func() bool { return conns(s.dev) == 0 })
}

func TestTheHostsLastBytesReachASlowGuest(t *testing.T) {
	p := newPairs(t)
	s := newStack(newGuest(t, p, 8, 4096))
	k := s.dial(40000, 1000)
	host := p.end()
	const n = 100 << 10 // fits into the socket: the host is gone before the guest has read any
	if _, err := io.Copy(struct{ io.Writer }{host}, source(1, n)); err != nil {
		t.Fatal(err)
	}
	_ = host.Close()
	if got, want := sumOf(t, struct{ io.Reader }{k}), sumOf(t, source(1, n)); !bytes.Equal(got, want) {
		t.Error("guest has read other than what was written")
	}
	eventually(t, "SHUTDOWN of both halves", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.shut == shutBoth
	})
	k.say(opReset, 0, nil)
	s.stop()
	eventually(t, "connection is forgotten", func() bool { return conns(s.dev) == 0 })
}

func TestHalvesCloseApart(t *testing.T) {
	t.Run("host ends, guest goes on", func(t *testing.T) {
		p := newPairs(t)
		g := newGuest(t, p, 8, 4096)
		host := g.open(p, 7)
		_, _ = host.Write([]byte("last"))
		_ = host.CloseWrite()
		if r := g.expect(opData); string(r.data) != "last" {
			t.Errorf("data %q", r.data)
		}
		if r := g.expect(opShutdown); r.flags != shutSend {
			t.Errorf("shutdown of %d", r.flags)
		}
		g.send(on(7, opData), []byte("still here"))
		wantRead(t, host, "still here")
		g.send(on(7, opShutdown).with(shutSend), nil)
		wantEnd(t, host)
		if r := g.expect(opShutdown); r.flags != shutBoth {
			t.Errorf("shutdown of %d", r.flags)
		}
		g.quiet()
	})
	t.Run("guest ends, host goes on", func(t *testing.T) {
		p := newPairs(t)
		g := newGuest(t, p, 8, 4096)
		host := g.open(p, 7)
		g.send(on(7, opData), []byte("last"))
		g.send(on(7, opShutdown).with(shutSend), nil)
		wantRead(t, host, "last")
		wantEnd(t, host)
		_, _ = host.Write([]byte("still here"))
		if r := g.expect(opData); string(r.data) != "still here" {
			t.Errorf("data %q", r.data)
		}
		g.quiet()
		_ = host.Close()
		if r := g.expect(opShutdown); r.flags != shutBoth {
			t.Errorf("shutdown of %d", r.flags)
		}
	})
	t.Run("guest reads no more", func(t *testing.T) {
		p := newPairs(t)
		g := newGuest(t, p, 8, 4096)
		host := g.open(p, 7)
		g.send(on(7, opShutdown).with(shutReceive), nil)
		if r := g.expect(opShutdown); r.flags != shutSend {
			t.Errorf("shutdown of %d", r.flags)
		}
		if _, err := host.Write([]byte("x")); err == nil {
			t.Error("host can still write")
		}
		g.send(on(7, opData), []byte("but it talks"))
		wantRead(t, host, "but it talks")
		g.send(on(7, opShutdown).with(shutSend), nil) // both now
		wantEnd(t, host)
		g.expect(opReset)
		g.quiet()
	})
	t.Run("host reads no more", func(t *testing.T) {
		p := newPairs(t)
		g := newGuest(t, p, 8, 4096)
		host := g.open(p, 7)
		_ = host.CloseRead()
		g.send(on(7, opData), []byte("x"))
		if r := g.expect(opShutdown); r.flags != shutReceive {
			t.Errorf("shutdown of %d", r.flags)
		}
		g.send(on(7, opData), []byte("dropped"))
		_, _ = host.Write([]byte("but it talks"))
		if r := g.expect(opData); string(r.data) != "but it talks" {
			t.Errorf("data %q", r.data)
		}
		g.quiet()
	})
}

func (h header) with(flags uint32) header { h.flags = flags; return h }

func TestAnIdleGuestHearsThatTheHostHangsUp(t *testing.T) {
	p := newPairs(t)
	g := newGuest(t, p, 8, 4096)
	host := g.open(p, 7)
	_ = host.CloseWrite()
	if r := g.expect(opShutdown); r.flags != shutSend {
		t.Errorf("shutdown of %d", r.flags)
	}
	_ = host.Close()
	if r := g.expect(opShutdown); r.flags != shutBoth {
		t.Errorf("shutdown of %d", r.flags)
	}
	g.send(on(7, opReset), nil)
	g.quiet()
	if n := conns(g.dev); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

func TestUnreadInputDoesNotSpoilTheHostsEndOfFile(t *testing.T) {
	p := newPairs(t)
	g := newGuest(t, p, 8, 4096)
	host := g.open(p, 7)
	h := on(7, opCreditUpdate)
	h.bufAlloc = 0
	g.send(h, nil)
	g.settled()
	_, _ = host.Write([]byte("input that nobody reads"))
	h.op, h.flags = opShutdown, shutBoth
	data := h
	data.op, data.flags = opData, 0
	g.send(data, []byte("output"))
	g.send(h, nil)
	wantRead(t, host, "output")
	wantEnd(t, host) // and not ECONNRESET
}

func TestAResetOfTheGuestsEndsTheHostsSide(t *testing.T) {
	p := newPairs(t)
	g := newGuest(t, p, 8, 4096)
	host := g.open(p, 7)
	g.send(on(7, opData), []byte("before"))
	g.send(on(7, opReset), nil)
	wantRead(t, host, "before")
	wantEnd(t, host)
	g.quiet()
	g.open(p, 7) // the address is free again
}

func TestARequestWithdrawnWhileTheHostIsDialled(t *testing.T) {
	p := newPairs(t)
	hold := make(chan struct{})
	g := newGuest(t, hostFunc(func(ctx context.Context, port uint32) (Conn, error) {
		<-hold
		return p.Dial(ctx, port)
	}), 8, 4096)
	g.send(on(7, opRequest), nil)
	g.send(on(7, opReset), nil)
	g.settled()
	close(hold)
	host := p.end()
	wantEnd(t, host)
	g.quiet()
	eventually(t, "connection is forgotten", func() bool { return conns(g.dev) == 0 })
}
