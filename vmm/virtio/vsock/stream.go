package vsock

// stream is the state of one connection, without I/O: what the guest may say, what it is to be told, and what
// has to be done to the host's side. Its owner serializes calls.
type stream struct {
	credit

	phase     phase
	answered  bool   // the guest has been told REQUEST or RESPONSE
	guestShut uint32 // what the guest has shut down
	hostShut  uint32 // what the host has, from the guest's point of view
	toldShut  uint32 // what of hostShut the guest knows

	owesCredit bool // the guest has asked for our counts
	starved    bool // the host has data, the guest no room
	asked      bool // and has been asked for its counts

	deaf     bool // the host takes no more: what the guest sends is dropped
	owed     bool // the host has yet to hear that the guest has accepted
	aborted  bool // neither side is owed anything
	readShut bool // done to the host's side
	writShut bool
	released bool
}

type phase uint8

const (
	dialling  phase = iota // the guest's REQUEST is here; the host has not answered
	requested              // ours is on its way; the guest has not answered
	open
	resetting // RST is due, nothing else
	gone      // the guest knows nothing of it; the host may still be owed data

	phaseCount
)

// reaction is what a packet from the guest leads to.
type reaction uint8

const (
	refuse    reaction = iota // it has no place here: RST
	ignore                    // its credit counts, no more
	establish                 // the guest accepts
	abandon                   // the guest knows the connection no more
	shut                      // one or both halves
	take                      // data
	answer                    // it wants our counts
)

// reactions is virtio 1.2 §5.10.6 for a connection that exists. What is not listed is refused.
var reactions = [phaseCount][opCount]reaction{
	dialling:  {opReset: abandon, opCreditUpdate: ignore},
	requested: {opResponse: establish, opReset: abandon},
	open: {
		opReset: abandon, opShutdown: shut, opData: take,
		opCreditUpdate: ignore, opCreditRequest: answer,
	},
	resetting: {
		opInvalid: ignore, opRequest: ignore, opResponse: ignore, opReset: abandon, opShutdown: ignore,
		opData: ignore, opCreditUpdate: ignore, opCreditRequest: ignore,
	},
}

// receive is told of a packet. h.size is checked against the packet's length already.
func (s *stream) receive(h *header) reaction {
	r := refuse
	if h.op < opCount {
		r = reactions[s.phase][h.op]
	} else if s.phase == resetting {
		r = ignore
	}
	if r != refuse {
		s.heard(h.bufAlloc, h.fwdCount)
	}
	switch r {
	case establish:
		s.phase, s.owed = open, true
	case abandon:
		s.phase = gone
	case shut:
		s.guestShut |= h.flags & shutBoth
	case answer:
		s.owesCredit = true
	case take:
		if s.guestShut&shutSend != 0 || !s.credit.receive(h.size) {
			r = refuse
		} else if s.deaf {
			s.forward(h.size)
			r = ignore
		}
	}
	if r == refuse {
		s.abort()
	}
	if s.room() > 0 {
		s.starved, s.asked = false, false
	}
	return r
}

// dialled says that the host has accepted.
func (s *stream) dialled() {
	if s.phase == dialling {
		s.phase = open
	}
}

// abort ends the connection at once.
func (s *stream) abort() {
	if s.phase != gone {
		s.phase = resetting
	}
	s.aborted = true
}

// hostEnded says that the host will send no more, and all that it sent is with the guest.
func (s *stream) hostEnded() { s.hostShut |= shutSend }

// hostDeaf says that the host takes no more.
func (s *stream) hostDeaf() {
	s.deaf = true
	s.hostShut |= shutReceive
	s.forward(s.pending())
}

// sendable says whether data may go to the guest, credit aside.
func (s *stream) sendable() bool {
	return s.phase == open && s.answered && s.hostShut&shutSend == 0 && s.guestShut&shutReceive == 0
}

// packet gives the next packet without data that is due, and counts it as sent. In this order: nothing follows
// RST, nothing precedes REQUEST or RESPONSE. Data is sent before the host is known to have ended, so SHUTDOWN
// can't overtake it.
func (s *stream) packet() (h header, ok bool) {
	h.socketType, h.op = typeStream, s.due()
	switch h.op {
	case opInvalid:
		return h, false
	case opReset:
		s.phase = gone
	case opRequest, opResponse:
		s.answered = true
	case opShutdown:
		s.toldShut = s.hostShut
		h.flags = s.hostShut
	case opCreditUpdate:
		s.owesCredit = false
	case opCreditRequest:
		s.asked = true
	}
	s.stamp(&h)
	return h, true
}

// due is the operation of the next packet without data; opInvalid when there is none.
func (s *stream) due() op {
	switch {
	case s.phase == resetting:
		return opReset
	case s.phase == requested && !s.answered:
		return opRequest
	case s.phase == open && !s.answered:
		return opResponse
	case s.phase != open:
		return opInvalid
	case s.hostShut != s.toldShut:
		return opShutdown
	case s.owesCredit, s.updateDue() && s.hostShut&shutReceive == 0:
		return opCreditUpdate
	case s.starved && !s.asked && s.sendable():
		return opCreditRequest
	}
	return opInvalid
}

// action is a set of things to do to the host's side.
type action uint8

const (
	closeRead action = 1 << iota
	closeWrite
	drain // before close: unread data would turn the peer's end of file into ECONNRESET
	release
)

// hostward gives what is to be done to the host's side now, each thing once. Whatever the guest has sent goes
// out before anything is closed, even if the guest is gone by then.
func (s *stream) hostward() (a action) {
	if s.released {
		return 0
	}
	if s.guestShut&shutReceive != 0 && !s.readShut {
		s.readShut = true
		s.hostShut |= shutSend
		a |= closeRead
	}
	flushed := s.pending() == 0 && !s.owed
	if flushed && s.phase == open && s.guestShut&shutSend != 0 {
		switch {
		case s.guestShut == shutBoth:
			s.phase = resetting // §5.10.6.5: RST confirms a clean disconnect
		case s.hostShut&shutSend != 0:
			s.hostShut = shutBoth
		}
		if !s.writShut {
			s.writShut = true
			a |= closeWrite
		}
	}
	switch {
	case s.aborted:
		a = release
	case s.hostShut == shutBoth, flushed && (s.phase == gone || s.phase == resetting):
		a = drain | release
	}
	s.released = a&release != 0
	return a
}
