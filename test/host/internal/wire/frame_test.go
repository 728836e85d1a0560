package wire_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/huskvm/husk/test/host/internal/wire"
)

func TestFramesArriveInOrderAndWhole(t *testing.T) {
	var stream bytes.Buffer
	w := wire.NewWriter(&stream)
	status := 42
	if err := errors.Join(
		w.Copy(wire.KindStdout, strings.NewReader(strings.Repeat("x", 70000))),
		w.Write(wire.KindStdinEnd, nil),
		w.WriteJSON(wire.KindExit, wire.Exit{Status: &status}),
	); err != nil {
		t.Fatal(err)
	}
	total := 0
	kind, payload, err := wire.Read(&stream)
	for ; err == nil && kind == wire.KindStdout; kind, payload, err = wire.Read(&stream) {
		total += len(payload)
	}
	if err != nil || total != 70000 || kind != wire.KindStdinEnd || len(payload) != 0 {
		t.Fatalf("after %d bytes of output: kind %d, %q, %v", total, kind, payload, err)
	}
	kind, payload, err = wire.Read(&stream)
	if err != nil || kind != wire.KindExit || string(payload) != `{"status":42}` {
		t.Errorf("got kind %d, %s, %v", kind, payload, err)
	}
	if _, _, err := wire.Read(&stream); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func TestStreamThatEndsWithinAFrameIsNoCleanEnd(t *testing.T) {
	for _, stream := range []string{"\x01\x00", "\x01\x00\x00\x00\x05", "\x01\x00\x00\x00\x05abc"} {
		if _, _, err := wire.Read(strings.NewReader(stream)); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%q: %v", stream, err)
		}
	}
}

func TestFrameLongerThanAllowedIsRefused(t *testing.T) {
	if _, _, err := wire.Read(strings.NewReader("\x01\xff\xff\xff\xff")); !errors.Is(err, wire.ErrTooLong) {
		t.Errorf("read: %v", err)
	}
	if err := wire.NewWriter(io.Discard).Write(wire.KindStdout, make([]byte, wire.MaxPayload+1)); !errors.Is(err, wire.ErrTooLong) {
		t.Errorf("write: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("\x02\x00\x00\x00\x02hi\x04\x00\x00\x00\x0d{\"status\":42}"))
	f.Add([]byte("\x01\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := bytes.NewReader(stream)
		for {
			kind, payload, err := wire.Read(r)
			if err != nil {
				return
			}
			var again bytes.Buffer
			if err := wire.NewWriter(&again).Write(kind, payload); err != nil {
				t.Fatalf("frame of kind %d was read but can't be written: %v", kind, err)
			}
		}
	})
}
