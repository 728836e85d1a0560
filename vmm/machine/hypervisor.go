package machine

import (
	"github.com/huskvm/husk/vmm/vcpu"
	"github.com/huskvm/husk/vmm/virtio"
)

// hypervisor runs the guest and carries the devices to it: KVM in this process (builtin.go), or a QEMU (emulated.go).
// The machine calls attach for every device, then load, then start; stop and close are due in every case.
type hypervisor interface {
	// has says that the hypervisor brings such a device of its own.
	has(virtio.ID) bool
	attach(virtio.Device) error
	// attachNIC is attach for a hypervisor that has network devices of its own. The tap is the hypervisor's.
	attachNIC(NIC) error
	// room is how many more devices fit.
	room() int
	// load makes all ready for the guest's first instruction.
	load(*Config) error
	start() error
	pause() error
	resume() error
	done() <-chan struct{}
	end() vcpu.End // after done
	exits() map[string]uint64
	// stop ends the guest, if it still runs, and takes the devices back.
	stop() error
	// close releases the rest; the devices are closed by then.
	close() error
}
