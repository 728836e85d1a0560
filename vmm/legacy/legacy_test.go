package legacy

import (
	"bytes"
	"testing"
	"time"
)

type handler interface {
	Read(off uint64, p []byte)
	Write(off uint64, p []byte)
}

func in(h handler, off uint64) byte {
	b := []byte{0}
	h.Read(off, b)
	return b[0]
}

func out(h handler, off uint64, v byte) { h.Write(off, []byte{v}) }

func TestSerialPrintsWhatIsSent(t *testing.T) {
	var got bytes.Buffer
	s := NewSerial(&got, nil)
	for _, c := range []byte("husk\r\n") {
		if in(s, regLineStatus)&statusEmpty != statusEmpty {
			t.Fatal("the transmitter is never full")
		}
		out(s, regData, c)
	}
	if got.String() != "husk\r\n" {
		t.Errorf("got %q", &got)
	}
}

func TestSerialDivisorIsNotOutput(t *testing.T) {
	var got bytes.Buffer
	s := NewSerial(&got, nil)
	out(s, regLineCtl, lineDivisor|3)
	out(s, 0, 0x0c)
	out(s, 1, 0x00)
	if in(s, 0) != 0x0c || in(s, 1) != 0 {
		t.Error("the divisor does not read back")
	}
	out(s, regLineCtl, 3)
	if got.Len() != 0 || in(s, regIntEnable) != 0 {
		t.Errorf("printed %q", &got)
	}
}

// The checks that Linux's 8250 driver makes in autoconfig.
func TestSerialIsA16550AForLinux(t *testing.T) {
	s := NewSerial(&bytes.Buffer{}, nil)
	out(s, regIntEnable, 0)
	if in(s, regIntEnable)&0xf != 0 {
		t.Error("interrupt enable does not clear")
	}
	out(s, regIntEnable, 0xf)
	if in(s, regIntEnable)&0xf != 0xf {
		t.Error("interrupt enable does not set")
	}
	out(s, regModemCtl, modemLoop|0x0a)
	if got := in(s, regModemStat) & 0xf0; got != 0x90 {
		t.Errorf("loopback: modem status %#x, want 0x90", got)
	}
	out(s, regIntIdent, fifoEnable)
	if in(s, regIntIdent)&identFIFO != identFIFO {
		t.Error("no FIFO")
	}
}

func TestSerialSignalsAnEmptyTransmitterOnce(t *testing.T) {
	edges := 0
	s := NewSerial(&bytes.Buffer{}, func() { edges++ })
	out(s, regModemCtl, modemOut2)
	out(s, regIntEnable, intEmpty)
	if edges != 1 || in(s, regIntIdent) != identEmpty {
		t.Errorf("enabling: %d edges", edges)
	}
	if in(s, regIntIdent) != identNone {
		t.Error("reading the identification does not acknowledge")
	}
	out(s, regData, 'x')
	if edges != 2 {
		t.Errorf("after a byte: %d edges", edges)
	}
}

func TestSerialInputIsReadInOrderAndBounded(t *testing.T) {
	edges := 0
	s := NewSerial(&bytes.Buffer{}, func() { edges++ })
	out(s, regModemCtl, modemOut2)
	out(s, regIntEnable, intReceived)
	if n := s.Receive([]byte("ab")); n != 2 || edges != 1 {
		t.Errorf("took %d bytes with %d edges", n, edges)
	}
	for _, want := range []byte("ab") {
		if in(s, regLineStatus)&statusReady == 0 || in(s, regData) != want {
			t.Errorf("%q is not there", want)
		}
	}
	if in(s, regLineStatus)&statusReady != 0 || in(s, regData) != 0 {
		t.Error("more input than was given")
	}
	if n := s.Receive(make([]byte, 2*inputMax)); n != inputMax {
		t.Errorf("took %d bytes", n)
	}
	if in(s, regLineStatus)&statusOverrun == 0 {
		t.Error("the loss is not told")
	}
}

func TestAccessesOfOtherWidthsAreIgnored(t *testing.T) {
	var got bytes.Buffer
	for _, h := range []handler{NewSerial(&got, nil), NewReset(func() { t.Error("reset") }), NewClock(time.Now)} {
		for off := range uint64(8) {
			h.Write(off, []byte{0xfe, 0xfe})
			h.Write(off, []byte{0xfe, 0xfe, 0xfe, 0xfe})
			h.Read(off, make([]byte, 4))
		}
	}
	if got.Len() != 0 {
		t.Errorf("printed %q", &got)
	}
}

func TestOnlyTheResetCommandResets(t *testing.T) {
	resets := 0
	r := NewReset(func() { resets++ })
	for v := range 256 {
		out(r, 0, byte(v))
	}
	if resets != 1 {
		t.Errorf("%d resets", resets)
	}
	if in(r, 0)&2 != 0 {
		t.Error("the controller is busy: Linux would wait before it resets")
	}
}

func TestClockShowsTheTimeInUTC(t *testing.T) {
	at := time.Date(2031, 12, 24, 23, 59, 7, 0, time.FixedZone("", 3600))
	c := NewClock(func() time.Time { return at })
	for reg, want := range map[byte]byte{
		clockSeconds: 0x07, clockMinutes: 0x59, clockHours: 0x22, clockDay: 0x24, clockMonth: 0x12,
		clockYear: 0x31, clockCentury: 0x20, clockD: clockDValid,
	} {
		out(c, 0, reg|0x80)
		if got := in(c, 1); got != want {
			t.Errorf("register %#x: %#x, want %#x", reg, got, want)
		}
	}
	out(c, 0, clockA)
	if in(c, 1)&0x80 != 0 {
		t.Error("an update is in progress for ever")
	}
}
