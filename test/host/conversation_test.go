package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/huskvm/husk/test/host/internal/wire"
)

// hear lets a conversation listen to the given frames.
func hear(t *testing.T, say func(w *wire.Writer) error) (status int, stdout, stderr string, err error) {
	t.Helper()
	var stream, out, errs bytes.Buffer
	if err := say(wire.NewWriter(&stream)); err != nil {
		t.Fatal(err)
	}
	c := &conversation{commandStarted: make(chan struct{}, 1), report: make(chan string, 1), timing: newTiming()}
	status, err = c.listen(&stream, &out, &errs)
	return status, out.String(), errs.String(), err
}

func TestStatusAndOutputOfTheCommandComeApart(t *testing.T) {
	status, stdout, stderr, err := hear(t, func(w *wire.Writer) error {
		return errors.Join(
			w.WriteJSON(wire.KindMark, wire.Mark{Name: wire.MarkCommand}),
			w.Write(wire.KindStdout, []byte("out")),
			w.Write(wire.KindStderr, []byte("err")),
			w.Write(wire.KindExit, []byte(`{"status":42}`)),
		)
	})
	if status != 42 || stdout != "out" || stderr != "err" || err != nil {
		t.Errorf("got %d, %q, %q, %v", status, stdout, stderr, err)
	}
}

func TestNothingButAnExplicitStatusIsASuccess(t *testing.T) {
	for name, test := range map[string]struct {
		say  func(w *wire.Writer) error
		want error
	}{
		"silence":             {func(*wire.Writer) error { return nil }, errGuestGone},
		"output only":         {func(w *wire.Writer) error { return w.Write(wire.KindStdout, []byte("x")) }, errGuestGone},
		"exit without status": {func(w *wire.Writer) error { return w.WriteJSON(wire.KindExit, wire.Exit{}) }, errNoStatus},
		"null status":         {func(w *wire.Writer) error { return w.Write(wire.KindExit, []byte(`{"status":null}`)) }, errNoStatus},
		"failure":             {func(w *wire.Writer) error { return w.Write(wire.KindFailure, []byte("no root")) }, errSetUp},
	} {
		if _, _, _, err := hear(t, test.say); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
	}
	for name, say := range map[string]func(w *wire.Writer) error{
		"empty exit":   func(w *wire.Writer) error { return w.Write(wire.KindExit, nil) },
		"unknown kind": func(w *wire.Writer) error { return w.Write(wire.Kind(99), nil) },
	} {
		if _, _, _, err := hear(t, say); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestOutputThatCannotBeWrittenIsAnError(t *testing.T) {
	var stream bytes.Buffer
	if err := wire.NewWriter(&stream).Write(wire.KindStdout, []byte("x")); err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	r.Close()
	c := &conversation{timing: newTiming()}
	if _, err := c.listen(&stream, w, io.Discard); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v", err)
	}
}

func TestConsoleTailHasNoNoise(t *testing.T) {
	const text = "\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS (version 1.16.2-debian)\r\nBooting from ROM..[    1.0] one\r\n\r\n[    2.0] two\r\n"
	var got []string
	for _, line := range tailLines([]byte(text), 10) {
		got = append(got, string(line))
	}
	if joined := strings.Join(got, "|"); joined != "[    1.0] one|[    2.0] two" {
		t.Errorf("got %q", joined)
	}
	if last := tailLines([]byte(text), 1); len(last) != 1 || string(last[0]) != "[    2.0] two" {
		t.Errorf("the last line is %q", last)
	}
}

func TestTimingShowsEachStep(t *testing.T) {
	timing := newTiming()
	timing.at("qemu started")
	timing.guestAt(wire.Mark{Name: wire.MarkInit, UptimeMS: 1500})
	var out strings.Builder
	timing.print(&out)
	if s := out.String(); !strings.Contains(s, "qemu started") || !strings.Contains(s, "kernel's clock 1.50s") {
		t.Errorf("got %q", s)
	}
}
