package vhostuser

import "fmt"

// request is a front end's message type.
type request uint32

const (
	getFeatures         request = 1
	setFeatures         request = 2
	setOwner            request = 3
	resetOwner          request = 4
	setMemTable         request = 5
	setVringNum         request = 8
	setVringAddr        request = 9
	setVringBase        request = 10
	getVringBase        request = 11
	setVringKick        request = 12
	setVringCall        request = 13
	setVringErr         request = 14
	getProtocolFeatures request = 15
	setProtocolFeatures request = 16
	getQueueNum         request = 17
	setVringEnable      request = 18
	setBackendReqFD     request = 21
	getConfig           request = 24
	setConfig           request = 25
	resetDevice         request = 34
)

// shape is what a request looks like.
type shape struct {
	name     string
	min, max int // bytes of payload
	fds      int // descriptors at most
	// stops means that it changes what a running device depends on. The device is stopped for it, and started again
	// afterwards if nothing is missing.
	stops bool
}

// shapes has every request that is understood; handle does what they say.
var shapes = map[request]shape{
	getFeatures:         {name: "GET_FEATURES"},
	setFeatures:         {name: "SET_FEATURES", min: u64Size, max: u64Size, stops: true},
	setOwner:            {name: "SET_OWNER"},
	resetOwner:          {name: "RESET_OWNER"},
	setMemTable:         {name: "SET_MEM_TABLE", min: tableHead, max: tableHead + maxRegions*regionSize, fds: maxRegions, stops: true},
	setVringNum:         {name: "SET_VRING_NUM", min: stateSize, max: stateSize, stops: true},
	setVringAddr:        {name: "SET_VRING_ADDR", min: addrSize, max: addrSize, stops: true},
	setVringBase:        {name: "SET_VRING_BASE", min: stateSize, max: stateSize, stops: true},
	getVringBase:        {name: "GET_VRING_BASE", min: stateSize, max: stateSize, stops: true},
	setVringKick:        {name: "SET_VRING_KICK", min: u64Size, max: u64Size, fds: 1, stops: true},
	setVringCall:        {name: "SET_VRING_CALL", min: u64Size, max: u64Size, fds: 1},
	setVringErr:         {name: "SET_VRING_ERR", min: u64Size, max: u64Size, fds: 1},
	getProtocolFeatures: {name: "GET_PROTOCOL_FEATURES"},
	setProtocolFeatures: {name: "SET_PROTOCOL_FEATURES", min: u64Size, max: u64Size},
	getQueueNum:         {name: "GET_QUEUE_NUM"},
	setVringEnable:      {name: "SET_VRING_ENABLE", min: stateSize, max: stateSize},
	setBackendReqFD:     {name: "SET_BACKEND_REQ_FD", fds: 1},
	getConfig:           {name: "GET_CONFIG", min: configHead, max: maxPayload},
	setConfig:           {name: "SET_CONFIG", min: configHead, max: maxPayload},
	resetDevice:         {name: "RESET_DEVICE", stops: true},
}

func (r request) String() string {
	if s, ok := shapes[r]; ok {
		return s.name
	}
	return fmt.Sprintf("request %d", uint32(r))
}

func (s shape) check(m *message) error {
	switch {
	case len(m.payload) < s.min || len(m.payload) > s.max:
		return fmt.Errorf("payload of %d bytes: %d to %d are right", len(m.payload), s.min, s.max)
	case len(m.fds) > s.fds:
		return fmt.Errorf("%d descriptors: at most %d belong to it", len(m.fds), s.fds)
	}
	return nil
}

// refusal is of a request that is well-formed and can't be fulfilled. A front end that asked is told; to one that
// didn't, nothing but the end of the session can be said.
type refusal struct{ reason string }

func (r *refusal) Error() string { return r.reason }

func refuse(format string, args ...any) error { return &refusal{fmt.Sprintf(format, args...)} }
