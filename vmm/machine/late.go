package machine

import (
	"errors"
	"fmt"
	"sync"

	"github.com/huskvm/husk/vmm/virtio/blk"
)

// ErrNoRoom means that no spare device is left for a disk.
var ErrNoRoom = errors.New("the VM has no spare device for a further disk")

// lateDisks are the devices of disks that come and go while the guest runs.
type lateDisks struct {
	mu    sync.Mutex
	spare []*blk.Device
	used  map[string]*blk.Device // by serial
}

// AddDisk gives the guest a further disk, which it finds by the serial as soon as it asks. The file belongs to the machine,
// even if it fails.
func (m *Machine) AddDisk(d Disk) error {
	l := &m.late
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.used[d.Serial]; ok {
		return errors.Join(fmt.Errorf("there is a disk %q already", d.Serial), d.File.Close())
	}
	if len(l.spare) == 0 {
		return errors.Join(ErrNoRoom, d.File.Close())
	}
	device := l.spare[0]
	if err := device.Insert(blk.Config{File: d.File, ReadOnly: d.ReadOnly, Serial: d.Serial}); err != nil {
		return err
	}
	if l.used == nil {
		l.used = map[string]*blk.Device{}
	}
	l.spare, l.used[d.Serial] = l.spare[1:], device
	return nil
}

// RemoveDisk takes one back that AddDisk has given. One that is not there is no error.
func (m *Machine) RemoveDisk(serial string) error {
	l := &m.late
	l.mu.Lock()
	defer l.mu.Unlock()
	device, ok := l.used[serial]
	if !ok {
		return nil
	}
	delete(l.used, serial)
	l.spare = append(l.spare, device)
	return device.Eject()
}
