package vsock

import "encoding/binary"

// hostCID is the host's address (virtio 1.2 §5.10.4).
const hostCID = 2

// headerSize is that of struct virtio_vsock_hdr (§5.10.6).
const headerSize = 44

// typeStream is the one socket type there is here (§5.10.6).
const typeStream = 1

// maxPayload bounds one packet's data. Linux refuses to receive more.
const maxPayload = 64 << 10

// op is what a packet means (§5.10.6).
type op uint16

const (
	opInvalid op = iota
	opRequest
	opResponse
	opReset
	opShutdown
	opData
	opCreditUpdate
	opCreditRequest

	opCount
)

// Flags of opShutdown, from the point of view of the sender (§5.10.6.4).
const (
	shutReceive = 1 << 0
	shutSend    = 1 << 1
	shutBoth    = shutReceive | shutSend
)

// header begins every packet in both directions.
type header struct {
	srcCID, dstCID   uint64
	srcPort, dstPort uint32
	size             uint32 // of the data that follows
	socketType       uint16
	op               op
	flags            uint32
	bufAlloc         uint32
	fwdCount         uint32
}

func (h *header) decode(p *[headerSize]byte) {
	le := binary.LittleEndian
	h.srcCID, h.dstCID = le.Uint64(p[0:]), le.Uint64(p[8:])
	h.srcPort, h.dstPort = le.Uint32(p[16:]), le.Uint32(p[20:])
	h.size = le.Uint32(p[24:])
	h.socketType, h.op = le.Uint16(p[28:]), op(le.Uint16(p[30:]))
	h.flags, h.bufAlloc, h.fwdCount = le.Uint32(p[32:]), le.Uint32(p[36:]), le.Uint32(p[40:])
}

func (h *header) encode(p *[headerSize]byte) {
	le := binary.LittleEndian
	le.PutUint64(p[0:], h.srcCID)
	le.PutUint64(p[8:], h.dstCID)
	le.PutUint32(p[16:], h.srcPort)
	le.PutUint32(p[20:], h.dstPort)
	le.PutUint32(p[24:], h.size)
	le.PutUint16(p[28:], h.socketType)
	le.PutUint16(p[30:], uint16(h.op))
	le.PutUint32(p[32:], h.flags)
	le.PutUint32(p[36:], h.bufAlloc)
	le.PutUint32(p[40:], h.fwdCount)
}

// resetOf is the answer to a packet that belongs to no connection: its addresses turned round.
func resetOf(h header) header {
	return header{
		srcCID: h.dstCID, dstCID: h.srcCID,
		srcPort: h.dstPort, dstPort: h.srcPort,
		socketType: h.socketType, op: opReset,
	}
}
