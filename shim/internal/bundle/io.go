package bundle

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Device numbers a block device of the host.
type Device struct{ Major, Minor int64 }

// HostIO are the limits of I/O that hold the VMM on the host, which serves the guest's disks and shared directories.
// Nil is none.
func HostIO(r *specs.LinuxResources) *specs.LinuxBlockIO {
	if r == nil || r.BlockIO == nil {
		return nil
	}
	io := *r.BlockIO
	io.LeafWeight, io.WeightDevice = nil, nil
	if !hasThrottle(&io) && (io.Weight == nil || *io.Weight == 0) {
		return nil
	}
	return &io
}

// DiskIO are those that the guest holds as well: of the host's devices that a disk of its stands for. Without them the
// host's page cache would take writes at any speed. Nil is none.
func DiskIO(r *specs.LinuxResources, disk []Device) *specs.LinuxBlockIO {
	if r == nil || r.BlockIO == nil {
		return nil
	}
	own := func(list []specs.LinuxThrottleDevice) (out []specs.LinuxThrottleDevice) {
		for _, d := range list {
			if slices.Contains(disk, Device{d.Major, d.Minor}) {
				out = append(out, d)
			}
		}
		return out
	}
	io := &specs.LinuxBlockIO{
		ThrottleReadBpsDevice: own(r.BlockIO.ThrottleReadBpsDevice), ThrottleWriteBpsDevice: own(r.BlockIO.ThrottleWriteBpsDevice),
		ThrottleReadIOPSDevice: own(r.BlockIO.ThrottleReadIOPSDevice), ThrottleWriteIOPSDevice: own(r.BlockIO.ThrottleWriteIOPSDevice),
	}
	if !hasThrottle(io) {
		return nil
	}
	return io
}

func hasThrottle(io *specs.LinuxBlockIO) bool {
	return len(io.ThrottleReadBpsDevice)+len(io.ThrottleWriteBpsDevice)+
		len(io.ThrottleReadIOPSDevice)+len(io.ThrottleWriteIOPSDevice) > 0
}

// LimitDisk gives the guest its part of the limits of I/O.
func (g *Guest) LimitDisk(spec *specs.Spec, disk []Device) {
	if io := DiskIO(spec.Linux.Resources, disk); io != nil {
		g.Spec.Linux.Resources.BlockIO = io
	}
}

// noteIO says what of the limits of I/O is not applied.
func (g *Guest) noteIO(io *specs.LinuxBlockIO, shared bool) {
	if io == nil {
		return
	}
	g.note(shared, "linux.resources.blockIO", "it holds a VM as a whole, and the container is not the first of its")
	g.note(!shared && (io.LeafWeight != nil || len(io.WeightDevice) > 0), "linux.resources.blockIO weights of devices",
		"a VM is weighed as a whole")
}
