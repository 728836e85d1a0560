// Package legacy has the few devices of the PC of old that a kernel still touches: the serial port, for development
// consoles only, since its output costs an exit a byte; the keyboard controller, for its reset line; and the
// clock chip, for kernels that ask it for the time.
//
// All are handlers on a port bus. Any port not served reads as ones, which tells a driver that nobody is there.
package legacy

import (
	"io"
	"sync"
)

// Ports of the devices. Each handler expects its range to start there.
const (
	SerialPort  = 0x3f8
	SerialPorts = 8
	ResetPort   = 0x64
	ResetPorts  = 1
	ClockPort   = 0x70
	ClockPorts  = 2
)

// Registers of a 16550A, by offset. With the divisor latch bit the first two are the baud rate.
const (
	regData       = 0 // receive and transmit
	regIntEnable  = 1
	regIntIdent   = 2 // read; FIFO control when written
	regLineCtl    = 3
	regModemCtl   = 4
	regLineStatus = 5
	regModemStat  = 6
	regScratch    = 7

	intReceived = 1 << 0 // in the interrupt enable register
	intEmpty    = 1 << 1

	identNone     = 1
	identEmpty    = 2
	identReceived = 4
	identFIFO     = 3 << 6

	fifoEnable = 1 << 0
	fifoClear  = 1 << 1

	lineDivisor = 1 << 7 // in the line control register

	modemLoop = 1 << 4
	modemOut2 = 1 << 3 // gates the interrupt line on a PC

	statusReady   = 1 << 0
	statusEmpty   = 3 << 5 // holding register and transmitter
	statusOverrun = 1 << 1

	modemPresent = 0xb0 // carrier detect, data set ready, clear to send
)

// inputMax bounds what a guest that does not read leaves waiting.
const inputMax = 4096

// Serial is a 16550A. What the guest sends goes to a writer at once, byte by byte.
type Serial struct {
	out       io.Writer
	interrupt func() // one edge of the port's line; may be nil

	mu      sync.Mutex
	enable  byte
	line    byte
	modem   byte
	scratch byte
	fifo    bool
	divisor [2]byte
	overrun bool
	sent    bool // a byte was sent, and the interrupt for it not yet seen
	input   []byte
}

// NewSerial returns a port that writes to out and signals interrupt (nil for none: then a guest can print, but
// its terminal driver waits for every few bytes). Errors of out are ignored: a guest must not stop for them.
func NewSerial(out io.Writer, interrupt func()) *Serial {
	return &Serial{out: out, interrupt: interrupt, divisor: [2]byte{1, 0}}
}

// Receive gives the guest input; what doesn't fit is lost, as on a line, and 0 ≤ n ≤ len(p) bytes were taken.
func (s *Serial) Receive(p []byte) (n int) {
	s.mu.Lock()
	n = min(len(p), inputMax-len(s.input))
	s.input = append(s.input, p[:n]...)
	s.overrun = s.overrun || n < len(p)
	raise := s.pending() != identNone
	s.mu.Unlock()
	s.signal(raise)
	return n
}

// Read serves a guest's read.
func (s *Serial) Read(off uint64, p []byte) {
	for i := range p {
		p[i] = 0xff
	}
	if len(p) != 1 {
		return
	}
	s.mu.Lock()
	v, raise := s.get(off)
	s.mu.Unlock()
	p[0] = v
	s.signal(raise)
}

// Write serves a guest's write. The output is written without the lock held.
func (s *Serial) Write(off uint64, p []byte) {
	if len(p) != 1 {
		return
	}
	s.mu.Lock()
	print, raise := s.put(off, p[0])
	s.mu.Unlock()
	if print {
		_, _ = s.out.Write(p)
	}
	s.signal(raise)
}

func (s *Serial) signal(raise bool) {
	if raise && s.interrupt != nil {
		s.interrupt()
	}
}

// pending is the interrupt that the identification register tells of: the enabled one of the highest priority.
func (s *Serial) pending() byte {
	switch {
	case s.modem&modemOut2 == 0 || s.modem&modemLoop != 0:
		return identNone
	case s.enable&intReceived != 0 && len(s.input) > 0:
		return identReceived
	case s.enable&intEmpty != 0 && s.sent:
		return identEmpty
	}
	return identNone
}

// get returns a register, and whether to signal again: the line is an edge, so what is still pending after this
// read needs another one.
func (s *Serial) get(off uint64) (v byte, raise bool) {
	if s.line&lineDivisor != 0 && off < 2 {
		return s.divisor[off], false
	}
	switch off {
	case regData:
		if len(s.input) == 0 {
			return 0, false
		}
		v, s.input = s.input[0], s.input[1:]
		return v, s.pending() == identReceived
	case regIntEnable:
		return s.enable, false
	case regIntIdent:
		v = s.pending()
		if v == identEmpty {
			s.sent = false // reading it acknowledges this one
		}
		if s.fifo {
			v |= identFIFO
		}
		return v, false
	case regLineCtl:
		return s.line, false
	case regModemCtl:
		return s.modem, false
	case regLineStatus:
		v = statusEmpty
		if len(s.input) > 0 {
			v |= statusReady
		}
		if s.overrun {
			v |= statusOverrun
			s.overrun = false
		}
		return v, false
	case regModemStat:
		if s.modem&modemLoop != 0 {
			return loopback(s.modem), false
		}
		return modemPresent, false
	case regScratch:
		return s.scratch, false
	}
	return 0xff, false
}

// loopback is the modem status when the modem's outputs are its inputs: RTS→CTS, DTR→DSR, OUT1→RI, OUT2→DCD. By
// it Linux finds out that there is a port.
func loopback(modem byte) byte {
	return modem&2<<3 | modem&1<<5 | modem&4<<4 | modem&8<<4
}

// put stores a register, and returns whether the byte is output and whether to signal.
func (s *Serial) put(off uint64, v byte) (print, raise bool) {
	if s.line&lineDivisor != 0 && off < 2 {
		s.divisor[off] = v
		return false, false
	}
	before := s.pending()
	switch off {
	case regData:
		s.sent = true
		if s.modem&modemLoop != 0 {
			if len(s.input) < inputMax {
				s.input = append(s.input, v)
			}
			return false, false
		}
		return true, s.pending() == identEmpty
	case regIntEnable:
		if v&intEmpty != 0 && s.enable&intEmpty == 0 {
			s.sent = true // enabling it while the transmitter is empty is an interrupt
		}
		s.enable = v & 0x0f
	case regIntIdent:
		s.fifo = v&fifoEnable != 0
		if v&fifoClear != 0 {
			s.input = s.input[:0]
		}
	case regLineCtl:
		s.line = v
	case regModemCtl:
		s.modem = v & 0x1f
	case regScratch:
		s.scratch = v
	}
	now := s.pending()
	return false, now != identNone && now != before
}
