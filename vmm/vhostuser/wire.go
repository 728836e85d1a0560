package vhostuser

import (
	"encoding/binary"
	"fmt"
)

// All numbers of a message are in the byte order of the machine, unlike those of the rings.
var order = binary.NativeEndian

// A message is a header of three 32-bit words, request, flags and payload size, and the payload.
const (
	headerSize = 12

	flagVersion     = 1 // the only one there is
	flagVersionMask = 3
	flagReply       = 1 << 2
	flagNeedReply   = 1 << 3
)

// Payload sizes, in bytes.
const (
	u64Size    = 8
	stateSize  = 8
	addrSize   = 40
	regionSize = 32
	tableHead  = 8
	configHead = 12

	maxRegions = 8
	maxConfig  = 256
	maxPayload = configHead + maxConfig // the largest of all
)

// vringNoFD is set beside the ring's index where a message that could bring a descriptor brings none.
const vringNoFD = 1 << 8

// header is of a request; a reply has the same form.
type header struct {
	request request
	flags   uint32
	size    uint32 // of the payload
}

func decodeHeader(b []byte) (header, error) {
	h := header{request: request(order.Uint32(b)), flags: order.Uint32(b[4:]), size: order.Uint32(b[8:])}
	switch {
	case h.flags&flagVersionMask != flagVersion:
		return h, fmt.Errorf("%s: version %d of the protocol: only %d exists", h.request, h.flags&flagVersionMask, flagVersion)
	case h.flags&^(flagVersionMask|flagNeedReply) != 0:
		return h, fmt.Errorf("%s: flags %#x are not those of a request", h.request, h.flags)
	case h.size > maxPayload:
		return h, fmt.Errorf("%s: payload of %d bytes: at most %d", h.request, h.size, maxPayload)
	}
	return h, nil
}

// encode returns the message of h with that payload.
func (h header) encode(payload []byte) []byte {
	b := make([]byte, 0, headerSize+len(payload))
	b = order.AppendUint32(b, uint32(h.request))
	b = order.AppendUint32(b, h.flags)
	b = order.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

func encodeU64(v uint64) []byte { return order.AppendUint64(nil, v) }

// ringState is a ring's index and a number of its.
type ringState struct {
	index, num uint32
}

func decodeRingState(b []byte) ringState {
	return ringState{index: order.Uint32(b), num: order.Uint32(b[4:])}
}

func (s ringState) encode() []byte {
	return order.AppendUint32(order.AppendUint32(nil, s.index), s.num)
}

// ringAddr is where a ring's areas are in the front end's address space. A log address follows, which is for
// migration.
type ringAddr struct {
	index, flags      uint32
	desc, used, avail uint64
}

func decodeRingAddr(b []byte) ringAddr {
	return ringAddr{
		index: order.Uint32(b), flags: order.Uint32(b[4:]),
		desc: order.Uint64(b[8:]), used: order.Uint64(b[16:]), avail: order.Uint64(b[24:]),
	}
}

// ringFD is a ring's index, and whether a descriptor comes with it.
type ringFD struct {
	index uint32
	fd    bool
}

func decodeRingFD(b []byte) (ringFD, error) {
	v := order.Uint64(b)
	if v >= 2*vringNoFD {
		return ringFD{}, fmt.Errorf("ring %#x has bits that mean nothing", v)
	}
	return ringFD{index: uint32(v % vringNoFD), fd: v&vringNoFD == 0}, nil
}

// region is one piece of guest memory: where the guest has it, where the front end has it, and where it begins in
// the file that comes with it.
type region struct {
	guest, size, user, offset uint64
}

func decodeTable(b []byte) ([]region, error) {
	n := order.Uint32(b)
	if n == 0 || n > maxRegions || len(b) != tableHead+int(n)*regionSize {
		return nil, fmt.Errorf("memory table of %d regions in %d bytes", n, len(b))
	}
	regions := make([]region, n)
	for i := range regions {
		p := b[tableHead+i*regionSize:]
		r := region{guest: order.Uint64(p), size: order.Uint64(p[8:]), user: order.Uint64(p[16:]), offset: order.Uint64(p[24:])}
		if r.size == 0 || r.guest+r.size < r.guest || r.user+r.size < r.user || r.offset+r.size < r.offset {
			return nil, fmt.Errorf("memory region of %#x bytes at %#x, %#x of the front end, %#x of the file: empty or too large",
				r.size, r.guest, r.user, r.offset)
		}
		regions[i] = r
	}
	return regions, nil
}

// configAccess is a part of the configuration space, which is little-endian in itself.
type configAccess struct {
	offset, flags uint32
	data          []byte
}

func decodeConfig(b []byte) (configAccess, error) {
	c := configAccess{offset: order.Uint32(b), flags: order.Uint32(b[8:]), data: b[configHead:]}
	if size := order.Uint32(b[4:]); uint64(size) != uint64(len(c.data)) {
		return c, fmt.Errorf("configuration access of %d bytes with %d", size, len(c.data))
	}
	return c, nil
}

func (c configAccess) encode() []byte {
	b := order.AppendUint32(make([]byte, 0, configHead+len(c.data)), c.offset)
	b = order.AppendUint32(b, uint32(len(c.data)))
	b = order.AppendUint32(b, c.flags)
	return append(b, c.data...)
}
