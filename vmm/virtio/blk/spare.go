package blk

// NewSpare makes a device for a disk that comes later: a guest is given no devices once it runs. Until Insert its disk has
// no sectors.
func NewSpare(queues int) (*Device, error) { return newDevice(noDisk(), queues, false) }

func noDisk() *disk { return &disk{geometry: geometry{blockSize: sectorSize, physical: 3}} }

// Insert puts a disk into a spare device, and tells the guest. What changes is the capacity (virtio 1.2 §5.2.4) and the
// answer to GET_ID; features and block sizes are the device's, so that a disk for reading only has its writes refused. The
// file belongs to the device, even if it fails.
func (d *Device) Insert(cfg Config) error {
	disk, err := openDisk(cfg)
	if err != nil {
		return err
	}
	return d.exchange(disk)
}

// Eject takes the disk out when no request is under way, and tells the guest. It does not flush. What the guest still asks
// of the disk fails.
func (d *Device) Eject() error { return d.exchange(noDisk()) }

func (d *Device) exchange(to *disk) error {
	d.media.Lock()
	from, transport := d.disk, d.transport
	d.disk = to
	d.media.Unlock()
	if transport != nil {
		transport.ConfigChanged()
	}
	return from.close()
}
