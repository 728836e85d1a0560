package balloon

import "encoding/binary"

// Features (virtio 1.2 §5.5.3).
const (
	featureDeflateOnOOM uint64 = 1 << 2
	featurePagePoison   uint64 = 1 << 4
	featureReporting    uint64 = 1 << 5
)

// Queue order (§5.5.2). The queues of features that aren't offered, statistics and free page hints, don't exist,
// and drivers number the ones that do without a gap: Linux passes over absent queues when it counts.
const (
	inflateQueue = iota
	deflateQueue
	reportingQueue
)

// pfnShift is the balloon's page size, whatever the guest's or the host's is (§5.5.6).
const pfnShift = 12

// maxPFNs bounds the work of one request. Linux sends 256.
const maxPFNs = 64 << 10

// config is struct virtio_balloon_config (§5.5.4). The hint command between actual and poison is not offered.
type config struct {
	target uint32 // num_pages: what we want
	actual uint32 // what the driver says there is
	poison uint32 // what the driver expects to find in pages it reported, if it negotiated that
}

const (
	configSize   = 16
	actualOffset = 4
	poisonOffset = 12
)

func (c *config) bytes() (b [configSize]byte) {
	binary.LittleEndian.PutUint32(b[0:], c.target)
	binary.LittleEndian.PutUint32(b[actualOffset:], c.actual)
	binary.LittleEndian.PutUint32(b[poisonOffset:], c.poison)
	return b
}
