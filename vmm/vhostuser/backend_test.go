package vhostuser

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestNewCountsTheQueues(t *testing.T) {
	for queues, ok := range map[int]bool{-1: false, 0: true, 1: true, 3: true, 4: false} {
		_, err := New(Config{Device: &echo{}, Log: slog.New(slog.DiscardHandler), Queues: queues})
		if (err == nil) != ok {
			t.Errorf("%d rings: %v", queues, err)
		}
	}
}

func TestOneFrontEndAtATime(t *testing.T) {
	f := connect(t)
	q := f.start()
	other, _ := connPair(t)
	if err := f.backend.Serve(other); !errors.Is(err, ErrBusy) {
		t.Errorf("a second one: %v", err)
	}
	f.echo(0, q[0], "first come")
	_ = f.conn.Close()
	if err := f.over(); err != nil {
		t.Errorf("a front end that goes: %v", err)
	}
	f.want(1, 1, 2)
	f.reconnect()
	q = f.start()
	f.want(2, 1, 2)
	f.echo(0, q[0], "next please")
	if err := f.backend.Close(); err != nil {
		t.Error(err)
	}
	if err := f.over(); err != nil {
		t.Errorf("closed: %v", err)
	}
	f.want(2, 3, 2)
	other, _ = connPair(t)
	if err := f.backend.Serve(other); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// held is what a process can have too much of.
type held struct{ descriptors, goroutines, mappings int }

func holding(t *testing.T) held {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return held{len(fds), runtime.NumGoroutine(), strings.Count(string(maps), "husk-test-ram")}
}

func TestNothingIsLeft(t *testing.T) {
	f := connect(t)
	_ = f.conn.Close()
	_ = f.over() // the poller has its own descriptors from here on
	before := holding(t)
	for name, end := range map[string]func(){
		"front end goes": func() { _ = f.conn.Close() },
		"front end breaks the protocol": func() {
			f.write(header{request: setOwner, flags: 3}.encode(nil), int(f.ram.Fd()), f.kick[0].FD())
		},
		"refused descriptors": func() {
			f.try(setMemTable, encodeTable(region{size: 4096}), f.kick[0].FD())
			f.try(request(99), nil, f.kick[0].FD(), f.kick[1].FD())
			_ = f.conn.Close()
		},
		"everything twice": func() {
			f.do(resetDevice, nil)
			f.start()
			_ = f.conn.Close()
		},
		"close": func() {
			_ = f.backend.Close()
			f.backend.mu.Lock()
			f.backend.closed = false // once more
			f.backend.mu.Unlock()
		},
	} {
		f.reconnect()
		q := f.start()
		f.echo(0, q[0], "something to lose")
		ours, theirs := connPair(t)
		file, err := theirs.File()
		if err != nil {
			t.Fatal(err)
		}
		f.do(setBackendReqFD, nil, int(file.Fd()))
		_ = file.Close()
		_ = ours.Close()
		_ = theirs.Close()
		if now := holding(t); now.mappings <= before.mappings || now.descriptors <= before.descriptors {
			t.Fatalf("%s: %+v while serving, %+v before: this test sees nothing", name, now, before)
		}
		end()
		_ = f.over()
		_ = f.conn.Close()
		if err := settled(t, before); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// settled waits until no more is held than before. A goroutine that has said its last word takes a moment to end; if
// before has one of those, what leaks one shows the second time.
func settled(t *testing.T, before held) error {
	t.Helper()
	for end := time.Now().Add(deadline); ; time.Sleep(time.Millisecond) {
		now := holding(t)
		switch {
		case now.descriptors <= before.descriptors && now.goroutines <= before.goroutines && now.mappings <= before.mappings:
			return nil
		case time.Now().After(end):
			return fmt.Errorf("%+v is held, %+v was before", now, before)
		}
	}
}
