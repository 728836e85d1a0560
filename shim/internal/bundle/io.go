package bundle

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Device numbers a block device of the host.
type Device struct{ Major, Minor int64 }

// HostIO are the limits of I/O that hold the VMM on the host, which serves the guest's shared directories: all but those
// of its disk. Nil is none.
func HostIO(r *specs.LinuxResources, disk []Device) *specs.LinuxBlockIO {
	if r == nil || r.BlockIO == nil {
		return nil
	}
	io := throttlesOf(r.BlockIO, func(d Device) bool { return !slices.Contains(disk, d) })
	if w := r.BlockIO.Weight; w != nil && *w != 0 {
		io.Weight = w
	}
	if io.Weight == nil && !hasThrottle(io) {
		return nil
	}
	return io
}

// DiskIO are those that the guest holds: of the host's devices that its disk stands for. On the host, the page cache
// would take writes at any speed, and then again be slow to write them back. Nil is none.
func DiskIO(r *specs.LinuxResources, disk []Device) *specs.LinuxBlockIO {
	if r == nil || r.BlockIO == nil {
		return nil
	}
	io := throttlesOf(r.BlockIO, func(d Device) bool { return slices.Contains(disk, d) })
	if !hasThrottle(io) {
		return nil
	}
	return io
}

func throttlesOf(io *specs.LinuxBlockIO, of func(Device) bool) *specs.LinuxBlockIO {
	choose := func(list []specs.LinuxThrottleDevice) (out []specs.LinuxThrottleDevice) {
		for _, d := range list {
			if of(Device{d.Major, d.Minor}) {
				out = append(out, d)
			}
		}
		return out
	}
	return &specs.LinuxBlockIO{
		ThrottleReadBpsDevice: choose(io.ThrottleReadBpsDevice), ThrottleWriteBpsDevice: choose(io.ThrottleWriteBpsDevice),
		ThrottleReadIOPSDevice: choose(io.ThrottleReadIOPSDevice), ThrottleWriteIOPSDevice: choose(io.ThrottleWriteIOPSDevice),
	}
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
