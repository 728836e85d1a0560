package console

import "encoding/binary"

// Features (virtio 1.2 §5.3.3). Without MULTIPORT there is one port and no control queue.
const featureSize uint64 = 1 << 0

// Queue order (§5.3.2), from the driver's point of view.
const (
	receiveQueue = iota
	transmitQueue
	queueCount
)

// configBytes is struct virtio_console_config (§5.3.4) as far as it applies here.
func configBytes(columns, rows uint16) (b [4]byte) {
	binary.LittleEndian.PutUint16(b[0:], columns)
	binary.LittleEndian.PutUint16(b[2:], rows)
	return b
}
