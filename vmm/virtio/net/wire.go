package net

import "encoding/binary"

// Features (virtio 1.2 §5.1.3).
const (
	featureCsum      uint64 = 1 << 0 // the device takes packets with a partial checksum
	featureGuestCsum uint64 = 1 << 1 // the driver does
	featureMTU       uint64 = 1 << 3
	featureMAC       uint64 = 1 << 5
	featureGuestTSO4 uint64 = 1 << 7 // the driver takes large segments
	featureGuestTSO6 uint64 = 1 << 8
	featureGuestECN  uint64 = 1 << 9
	featureHostTSO4  uint64 = 1 << 11 // the device does
	featureHostTSO6  uint64 = 1 << 12
	featureHostECN   uint64 = 1 << 13
	featureMrgRxbuf  uint64 = 1 << 15
	featureCtrlVQ    uint64 = 1 << 17
	featureMQ        uint64 = 1 << 22 // depends on the control queue
)

// Queue order (§5.1.2): that of a pair, and of the control queue behind a number of pairs.
func receiveQueue(pair int) int  { return 2 * pair }
func transmitQueue(pair int) int { return 2*pair + 1 }
func controlQueue(pairs int) int { return 2 * pairs }

// pairsOf is how many pairs a driver finds with the features it has negotiated, of those that there are.
func pairsOf(features uint64, all int) int {
	if features&featureMQ == 0 || features&featureCtrlVQ == 0 {
		return 1
	}
	return all
}

// command is struct virtio_net_ctrl (§5.1.6.5) with two bytes of data, as VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET has.
type command [4]byte

const (
	classMQ     = 4
	mqPairsSet  = 0
	ackOK       = 0
	ackError    = 1
	controlSize = 64 // of the queue; Linux has one command under way at a time
)

func (c command) setsPairs() bool { return c[0] == classMQ && c[1] == mqPairsSet }
func (c command) pairs() int      { return int(binary.LittleEndian.Uint16(c[2:])) }

// header is struct virtio_net_hdr (§5.1.6), as it opens every packet, here and on the tap.
type header []byte

const (
	headerSize = 12

	// maxFrame is an Ethernet header with a VLAN tag and the largest IP packet.
	maxFrame  = 18 + 65535
	maxPacket = headerSize + maxFrame

	flagNeedsCsum = 1 << 0
	gsoNone       = 0
	gsoTCPv4      = 1
	gsoTCPv6      = 4
	gsoECN        = 0x80
)

func (h header) flags() byte           { return h[0] }
func (h header) gso() byte             { return h[1] }
func (h header) clearFlags()           { h[0] = 0 }
func (h header) setBuffers(n uint16)   { binary.LittleEndian.PutUint16(h[10:], n) }
func (h header) needsCsum() bool       { return h[0]&flagNeedsCsum != 0 }
func (h header) inOrder(f uint64) bool { return h.flagsInOrder(f) && h.gsoInOrder(f) }
func (h header) flagsInOrder(f uint64) bool {
	return h.flags() == 0 || h.flags() == flagNeedsCsum && f&featureCsum != 0
}

// gsoInOrder says whether the driver may ask for that segmentation with the features it has negotiated (§5.1.6.2.1).
func (h header) gsoInOrder(f uint64) bool {
	var need uint64
	switch h.gso() &^ gsoECN {
	case gsoNone:
		return h.gso() == gsoNone
	case gsoTCPv4:
		need = featureHostTSO4
	case gsoTCPv6:
		need = featureHostTSO6
	default:
		return false
	}
	if h.gso()&gsoECN != 0 {
		need |= featureHostECN
	}
	return f&need == need && h.needsCsum()
}

// configBytes is struct virtio_net_config (§5.1.4) as far as it applies here.
func configBytes(mac [6]byte, mtu uint16, pairs int) (b [12]byte) {
	copy(b[0:], mac[:])
	binary.LittleEndian.PutUint16(b[8:], uint16(pairs)) // max_virtqueue_pairs
	binary.LittleEndian.PutUint16(b[10:], mtu)
	return b
}
