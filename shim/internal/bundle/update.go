package bundle

import (
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/huskvm/husk/shim/internal/config"
)

// Update is a change of a container's limits.
type Update struct {
	Guest []byte // for the guest, as JSON
	// For the sandbox on the host; zero is no change.
	Cpus, Mems string
	Shares     uint64
	IO         *specs.LinuxBlockIO
}

// UpdateOf reads the host's new limits, as JSON, for a container that was made from spec, with a disk perhaps, in a VM of
// a size. What the VM is too small for is an error, as it does not grow. What the container was made with is always
// allowed.
func UpdateOf(data []byte, spec *specs.Spec, disk []Device, size Size, c *config.Config) (Update, error) {
	var r specs.LinuxResources
	if err := json.Unmarshal(data, &r); err != nil {
		return Update{}, fmt.Errorf("parse resources: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	was := spec.Linux.Resources
	if was == nil {
		was = &specs.LinuxResources{}
	}
	if limit := limitOf(&r); limit > limitOf(was) && withReserve(limit, c) > size.Memory {
		return Update{}, fmt.Errorf("memory limit %s does not fit into the VM: it has %s, of which the guest needs %s and 1/64 of the limit; "+
			"make the container anew with that limit, or with annotation %s: %w", config.Size(limit), config.Size(size.Memory),
			c.GuestReserve, config.AnnotationMemory, errdefs.ErrFailedPrecondition)
	}
	if quota, period := cpuQuota(&r); quota > 0 && vcpus(quota, period) > size.VCPUs && !sameQuota(&r, was) {
		return Update{}, fmt.Errorf("CPU quota %d/%d does not fit into the VM: it has %d vCPUs; "+
			"make the container anew with that quota, or with annotation %s: %w", quota, period, size.VCPUs,
			config.AnnotationVCPUs, errdefs.ErrFailedPrecondition)
	}
	u := Update{}
	u.Cpus, u.Mems = Cpuset(&r)
	if r.CPU != nil && r.CPU.Shares != nil {
		u.Shares = *r.CPU.Shares
	}
	u.IO = HostIO(&r, disk)
	own := DiskIO(&r, disk)
	new(Guest).stripResources(&r)
	r.BlockIO = own
	guest, err := json.Marshal(&r)
	u.Guest = guest
	return u, err
}

func sameQuota(a, b *specs.LinuxResources) bool {
	aq, ap := cpuQuota(a)
	bq, bp := cpuQuota(b)
	return aq == bq && ap == bp
}
