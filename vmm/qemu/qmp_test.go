package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}` + "\n"

// peer is QEMU's end of a monitor under test.
type peer struct {
	*os.File
	lines *bufio.Scanner
}

// scripted gives a monitor whose QEMU is the test.
func scripted(t *testing.T, events func(string, json.RawMessage)) (*monitor, *peer) {
	t.Helper()
	ours, theirs, err := Pair("test")
	must(t, err)
	if events == nil {
		events = func(string, json.RawMessage) {}
	}
	m := newMonitor(ours, events)
	t.Cleanup(func() {
		_ = theirs.Close()
		m.finish(0)
	})
	return m, &peer{theirs, bufio.NewScanner(theirs)}
}

// next is the next command.
func (p *peer) next() (c command, err error) {
	if !p.lines.Scan() {
		return c, errors.New("no command comes")
	}
	return c, json.Unmarshal(p.lines.Bytes(), &c)
}

func (p *peer) say(format string, args ...any) { _, _ = fmt.Fprintf(p, format+"\n", args...) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestAnswersFindTheirCalls(t *testing.T) {
	m, p := scripted(t, nil)
	go func() {
		p.say("%s", strings.TrimSpace(greeting))
		c, _ := p.next()
		p.say(`{"return": {}, "id": %d}`, c.ID)
		a, _ := p.next()
		b, _ := p.next()
		p.say(`{"return": {"of": %q}, "id": 999}`, "nobody")
		p.say(`{"return": {"of": %q}, "id": "text"}`, "nobody")
		p.say(`{"return": {"of": %q}}`, "nobody")
		p.say(`{"return": {"of": %q}, "id": %d}`, b.Execute, b.ID)
		p.say(`{"return": {"of": %q}, "id": %d}`, a.Execute, a.ID)
	}()
	must(t, m.negotiate(t.Context()))
	errs := make(chan error)
	for _, name := range []string{"one", "two"} {
		go func() {
			var r struct{ Of string }
			err := m.call(t.Context(), name, &r)
			if err == nil && r.Of != name {
				err = fmt.Errorf("%s got the answer of %s", name, r.Of)
			}
			errs <- err
		}()
	}
	for range 2 {
		must(t, <-errs)
	}
}

func TestARefusalIsAnError(t *testing.T) {
	m, p := scripted(t, nil)
	go func() {
		c, _ := p.next()
		p.say(`{"error": {"class": "GenericError", "desc": "not in this state"}, "id": %d}`, c.ID)
	}()
	if err := m.call(t.Context(), "cont", nil); err == nil || err.Error() != "cont: QEMU: not in this state" {
		t.Errorf("got %v", err)
	}
}

func TestACallEndsWithItsContext(t *testing.T) {
	m, _ := scripted(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.call(ctx, "stop", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.calls) != 0 {
		t.Errorf("%d calls are left", len(m.calls))
	}
}

func TestAQEMUThatDoesNotReadHoldsNobodyUp(t *testing.T) {
	m, _ := scripted(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	for range 100000 { // until the socket is full, and the context ends one that waits to be sent
		c, stop := context.WithTimeout(ctx, time.Microsecond)
		err := m.call(c, "query-status", nil)
		stop()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

func TestCallsEndWithTheLine(t *testing.T) {
	for _, c := range []struct {
		name, says string
		want       string
	}{
		{"closed", "", "QEMU is gone"},
		{"not JSON", "husk\n", "invalid character"},
		{"nothing known", "{}\n", "not one of"},
		{"two in one", `{"return": {}, "event": "STOP"}` + "\n", "not one of"},
		{"second greeting", greeting + greeting, "second greeting"},
		{"line without end", strings.Repeat("x", maxMessage+1), "more than"},
		{"deep", strings.Repeat("[", maxMessage-1) + "\n", "exceeded max depth"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, p := scripted(t, nil)
			go func() {
				_, _ = p.WriteString(c.says)
				_ = p.Close()
			}()
			err := m.call(t.Context(), "stop", nil)
			<-m.done
			if err == nil || !strings.Contains(m.cause().Error(), c.want) {
				t.Errorf("call: %v; line: %v", err, m.cause())
			}
		})
	}
}

func TestEventsComeInOrder(t *testing.T) {
	got := make(chan string, 3)
	_, p := scripted(t, func(name string, data json.RawMessage) { got <- name + string(data) })
	p.say(`{"event": "RESUME", "timestamp": {"seconds": 1, "microseconds": 2}}`)
	p.say(`{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}`)
	for _, want := range []string{"RESUME", `SHUTDOWN{"guest": true, "reason": "guest-reset"}`} {
		if e := <-got; e != want {
			t.Errorf("got %s, want %s", e, want)
		}
	}
}

func FuzzMonitor(f *testing.F) {
	f.Add([]byte(greeting + `{"return": {}, "id": 1}` + "\n"))
	f.Add([]byte(`{"return": {"status": "internal-error"}, "id": 1}` + "\n" + `{"event":"STOP"}` + "\n"))
	f.Add([]byte(`{"error": {"class": "x", "desc": "y"}, "id": 1}`))
	f.Add([]byte(`{"error": null, "return": null, "id": -1, "event": ""}`))
	f.Add([]byte(`{"event": "SHUTDOWN", "data": {"reason": 7}}` + "\n"))
	f.Add([]byte(greeting + greeting))
	f.Fuzz(func(t *testing.T, said []byte) {
		ours, theirs, err := Pair("fuzz")
		must(t, err)
		p := &Process{stopped: make(chan struct{}, 1)}
		m := newMonitor(ours, p.event)
		p.qmp = m
		go func() {
			_, _ = theirs.Write(said)
			_ = theirs.Close()
		}()
		var cpus []struct {
			Thread int `json:"thread-id"`
		}
		_ = m.call(t.Context(), "query-cpus-fast", &cpus)
		<-m.done
		if m.cause() == nil {
			t.Error("the line ended without a cause")
		}
		m.finish(0)
	})
}
