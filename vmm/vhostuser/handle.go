package vhostuser

import (
	"errors"
	"fmt"
	"math"
)

// serve does what m asks for and answers it. An error ends the session.
func (s *session) serve(m *message) error {
	reply, err := s.handle(m)
	if err == nil || errors.As(err, new(*refusal)) {
		if err := s.reconcile(); err != nil {
			return err
		}
	}
	ack := m.flags&flagNeedReply != 0 && s.protocol&protocolReplyAck != 0
	switch {
	case err == nil && reply != nil:
		return s.conn.reply(m.request, reply)
	case err == nil && ack:
		return s.conn.reply(m.request, encodeU64(0))
	case err != nil && ack && errors.As(err, new(*refusal)):
		s.log.Warn("vhost-user request is refused", "request", m.request.String(), "error", err)
		return s.conn.reply(m.request, encodeU64(1))
	case err != nil:
		return fmt.Errorf("%s: %w", m.request, err)
	}
	return nil
}

// handle returns the reply's payload of a request that has one.
func (s *session) handle(m *message) (reply []byte, err error) {
	shape, ok := shapes[m.request]
	if !ok {
		return nil, refuse("not supported")
	}
	if err := shape.check(m); err != nil {
		return nil, err
	}
	if shape.stops {
		if s.running && m.request != getVringBase {
			s.log.Info("device is reset for a change by the front end", "request", m.request.String())
		}
		if err := s.stop(); err != nil {
			return nil, err
		}
	}
	switch m.request {
	case setOwner, resetOwner: // the session is the connection; the specification has RESET_OWNER ignored
		return nil, nil
	case getFeatures:
		return encodeU64(s.offered()), nil
	case setFeatures:
		s.setFeatures(order.Uint64(m.payload))
		return nil, nil
	case getProtocolFeatures:
		return encodeU64(s.offeredProtocol()), nil
	case setProtocolFeatures:
		return nil, s.setProtocolFeatures(order.Uint64(m.payload))
	case getQueueNum:
		return encodeU64(uint64(len(s.rings))), nil
	case setMemTable:
		return nil, s.setMemTable(m)
	case setBackendReqFD:
		return nil, s.setBackendReqFD(m)
	case getConfig, setConfig:
		return s.config(m)
	case resetDevice:
		s.resetDevice()
		return nil, nil
	case setVringAddr:
		return nil, s.setVringAddr(decodeRingAddr(m.payload))
	case setVringKick, setVringCall, setVringErr:
		return nil, s.setVringFD(m)
	default:
		return s.ringRequest(m.request, decodeRingState(m.payload))
	}
}

// setFeatures takes what the driver has accepted. Whether it makes sense is seen when the device starts: the bits
// are the guest's.
func (s *session) setFeatures(features uint64) {
	s.features = features
	if features&featureProtocol == 0 {
		for i := range s.rings {
			s.rings[i].enabled = true
		}
	}
}

func (s *session) offeredProtocol() uint64 {
	p := protocolMQ | protocolReplyAck | protocolBackendReq | protocolResetDevice
	if !s.ownConfig {
		p |= protocolConfig
	}
	return p
}

func (s *session) setProtocolFeatures(features uint64) error {
	if extra := features &^ s.offeredProtocol(); extra != 0 {
		return refuse("features %#x were not offered", extra)
	}
	s.protocol = features
	return nil
}

// setMemTable replaces guest memory. The device is stopped.
func (s *session) setMemTable(m *message) error {
	regions, err := decodeTable(m.payload)
	if err != nil {
		return err
	}
	if len(m.fds) != len(regions) {
		return fmt.Errorf("%d descriptors for %d regions", len(m.fds), len(regions))
	}
	if s.memory != nil {
		if err := s.memory.unmap(); err != nil {
			return err
		}
		s.memory = nil
	}
	if s.memory, err = mapTable(regions, m.fds); err != nil {
		return refuse("%v", err)
	}
	return nil
}

func (s *session) setBackendReqFD(m *message) error {
	if len(m.fds) == 0 {
		return errors.New("no descriptor")
	}
	s.upcall.set(m.takeFD())
	return nil
}

func (s *session) config(m *message) ([]byte, error) {
	c, err := decodeConfig(m.payload)
	if err != nil {
		return nil, err
	}
	if m.request == getConfig {
		s.device.ReadConfig(c.data, c.offset)
		return c.encode(), nil
	}
	if c.flags != 0 {
		return nil, refuse("flags %#x: only the driver's own writes are taken", c.flags)
	}
	s.device.WriteConfig(c.data, c.offset)
	return nil, nil
}

// resetDevice leaves features and memory. The device is stopped.
func (s *session) resetDevice() {
	for i := range s.rings {
		r := &s.rings[i]
		r.setKick(-1)
		r.enabled, r.base = false, 0
	}
}

func (s *session) ring(index uint32) (*ring, error) {
	if uint64(index) >= uint64(len(s.rings)) {
		return nil, fmt.Errorf("ring %d of %d", index, len(s.rings))
	}
	return &s.rings[index], nil
}

func (s *session) setVringAddr(a ringAddr) error {
	r, err := s.ring(a.index)
	if err != nil {
		return err
	}
	if a.flags != 0 {
		return refuse("flags %#x: a log of written memory is not kept", a.flags)
	}
	r.addr = a
	return nil
}

func (s *session) setVringFD(m *message) error {
	v, err := decodeRingFD(m.payload)
	if err != nil {
		return err
	}
	r, err := s.ring(v.index)
	if err != nil {
		return err
	}
	if v.fd != (len(m.fds) == 1) {
		return fmt.Errorf("%d descriptors, and its payload says otherwise", len(m.fds))
	}
	fd := -1
	if v.fd {
		fd = m.takeFD()
	}
	switch m.request {
	case setVringCall:
		r.call.set(fd)
	case setVringErr:
		r.err.set(fd)
	case setVringKick:
		r.setKick(fd)
		if fd < 0 {
			return refuse("ring %d without a kick: rings are not polled", v.index)
		}
	}
	return nil
}

// ringRequest is for those whose payload is a ring's index and one number.
func (s *session) ringRequest(req request, v ringState) ([]byte, error) {
	r, err := s.ring(v.index)
	if err != nil {
		return nil, err
	}
	switch req {
	case setVringNum:
		r.size = v.num
	case setVringBase:
		if v.num > math.MaxUint16 {
			return nil, refuse("ring %d begins at %#x: packed rings are not supported", v.index, v.num)
		}
		r.base = uint16(v.num)
	case getVringBase: // the device is stopped already
		r.setKick(-1)
		r.stopped = true
		return ringState{index: v.index, num: uint32(r.base)}.encode(), nil
	case setVringEnable:
		if v.num > 1 {
			return nil, fmt.Errorf("ring %d is neither enabled nor disabled by %d", v.index, v.num)
		}
		r.enabled = v.num == 1
		r.stopped = r.stopped && !r.enabled
	}
	return nil, nil
}
