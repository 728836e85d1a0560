package vsock

import (
	"io"
	"sync"
)

// stack is a guest that keeps to the rules, and checks that the device does.
type stack struct {
	*guest
	mu      sync.Mutex
	sockets map[address]*socket
	stopped chan struct{}
}

func newStack(g *guest) *stack {
	s := &stack{guest: g, sockets: map[address]*socket{}, stopped: make(chan struct{})}
	go s.run()
	return s
}

// stop ends the stack's reading; the device sends one last packet for it.
func (s *stack) stop() {
	s.send(header{srcPort: 0xffff, dstPort: 0xffff, op: opData}, nil)
	<-s.stopped
}

func (s *stack) run() {
	defer close(s.stopped)
	for {
		p, err := s.receiveWithin(deadline)
		if err != nil {
			s.t.Errorf("guest: %v", err)
			return
		}
		if p.dstPort == 0xffff {
			return
		}
		s.mu.Lock()
		k := s.sockets[address{guestPort: p.dstPort, hostPort: p.srcPort}]
		s.mu.Unlock()
		switch {
		case k != nil:
			k.take(p)
		case p.op != opReset:
			s.t.Errorf("packet of no connection: %+v", p.header)
		}
	}
}

// socket is one connection in the guest.
type socket struct {
	s *stack
	address
	sending sync.Mutex // counts go out in the order they are made

	mu    sync.Mutex
	cond  *sync.Cond
	alloc uint32
	buf   []byte
	fwd   uint32
	told  uint32
	sent  uint32
	peer  header // its last word
	open  bool
	shut  uint32 // by the host
	reset bool
}

// dial connects to the host.
func (s *stack) dial(port, alloc uint32) *socket {
	k := &socket{s: s, address: address{guestPort: port, hostPort: hostPort}, alloc: alloc}
	k.cond = sync.NewCond(&k.mu)
	s.mu.Lock()
	s.sockets[k.address] = k
	s.mu.Unlock()
	k.say(opRequest, 0, nil)
	k.mu.Lock()
	defer k.mu.Unlock()
	for !k.open && !k.reset {
		k.cond.Wait()
	}
	return k
}

func (k *socket) say(o op, flags uint32, p []byte) {
	k.sending.Lock()
	defer k.sending.Unlock()
	k.mu.Lock()
	h := header{srcPort: k.guestPort, dstPort: k.hostPort, op: o, flags: flags, bufAlloc: k.alloc, fwdCount: k.fwd}
	k.told = k.fwd
	k.mu.Unlock()
	k.s.send(h, p)
}

func (k *socket) take(p packet) {
	k.mu.Lock()
	if k.reset {
		k.s.t.Errorf("packet after RST: %+v", p.header)
	}
	k.peer = p.header
	asked := false
	switch p.op {
	case opResponse:
		k.open = true
	case opReset:
		k.reset = true
	case opShutdown:
		k.shut |= p.flags
	case opData:
		if k.shut&shutSend != 0 {
			k.s.t.Errorf("data after SHUTDOWN: %+v", p.header)
		}
		k.buf = append(k.buf, p.data...)
		if len(k.buf) > int(k.alloc) {
			k.s.t.Errorf("%d bytes in a buffer of %d", len(k.buf), k.alloc)
		}
	case opCreditRequest:
		asked = true
	}
	k.cond.Broadcast()
	k.mu.Unlock()
	if asked {
		k.say(opCreditUpdate, 0, nil)
	}
}

// Read implements io.Reader.
func (k *socket) Read(p []byte) (int, error) {
	k.mu.Lock()
	for len(k.buf) == 0 && !k.reset && k.shut&shutSend == 0 {
		k.cond.Wait()
	}
	n := copy(p, k.buf)
	k.buf = k.buf[n:]
	k.fwd += uint32(n)
	due := k.fwd-k.told >= k.alloc/2
	k.mu.Unlock()
	if n == 0 {
		return 0, io.EOF
	}
	if due {
		k.say(opCreditUpdate, 0, nil)
	}
	return n, nil
}

// Write implements io.Writer.
func (k *socket) Write(p []byte) (done int, err error) {
	for done < len(p) {
		k.mu.Lock()
		room := func() uint32 { return k.peer.bufAlloc - (k.sent - k.peer.fwdCount) }
		for room() == 0 && !k.reset && k.shut&shutReceive == 0 {
			k.cond.Wait()
		}
		if k.reset || k.shut&shutReceive != 0 {
			k.mu.Unlock()
			return done, io.ErrClosedPipe
		}
		n := min(len(p)-done, int(room()), maxPayload)
		k.sent += uint32(n)
		k.mu.Unlock()
		k.say(opData, 0, p[done:done+n])
		done += n
	}
	return done, nil
}

// waitReset waits for the device's RST.
func (k *socket) waitReset() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for !k.reset {
		k.cond.Wait()
	}
}
