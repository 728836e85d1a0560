package sandbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"

	vmmv1 "github.com/huskvm/husk/proto/husk/vmm/v1"
	"github.com/huskvm/husk/shim/internal/bundle"
	"github.com/huskvm/husk/shim/internal/config"
	"github.com/huskvm/husk/shim/internal/mounts"
)

// podDisks is how many disks a pod's containers may have at a time, where its snapshotter makes disks.
const podDisks = 8

// spareDisks is how many devices the VM has for disks that come later. Where a pod's own root is on a disk, those of its
// containers are, too.
func spareDisks(c *config.Config, r Request, spec *specs.Spec) uint32 {
	switch {
	case !r.pause && bundle.Identify(r.ID, spec.Annotations).Kind != bundle.Pod:
		return 0
	case c.SpareDisks != nil:
		return *c.SpareDisks
	case mounts.OnDisk(r.Rootfs):
		return podDisks
	}
	return 0
}

// give adds to the running VM what a further container is made of; with acls, shares that have them.
func (v *vm) give(ctx context.Context, m *member, acls bool) error {
	shares, disks, err := m.donate(v.machine, acls)
	if err != nil {
		return err
	}
	for _, share := range shares {
		if _, err := v.machine.API().AddShare(ctx, &vmmv1.AddShareRequest{Share: share}); err != nil {
			return fmt.Errorf("share %s with the guest: %w", share.Name, errgrpc.ToNative(err))
		}
	}
	for _, disk := range disks {
		_, err := v.machine.API().AddDisk(ctx, &vmmv1.AddDiskRequest{Disk: disk})
		if err = errgrpc.ToNative(err); errdefs.IsResourceExhausted(err) {
			return fmt.Errorf("its root is on a disk, for which the pod's VM has no device left: set spare_disks in husk's configuration, or use the overlayfs snapshotter: %w", err)
		}
		if err != nil {
			return fmt.Errorf("give its disk to the guest: %w", err)
		}
	}
	return nil
}

// takeBack is the reverse of give, for a container that is gone.
func (v *vm) takeBack(ctx context.Context, m *member) error {
	var errs []error
	done := func(what string, err error) {
		if errors.Is(err, ttrpc.ErrClosed) { // the VM has ended meanwhile
			return
		}
		if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("take %s back from the VM: %w", what, err))
		}
	}
	share := func(name string) {
		_, err := v.machine.API().RemoveShare(ctx, &vmmv1.RemoveShareRequest{Name: name})
		done("share "+name, err)
	}
	switch id := m.prepared.guest.RootID; {
	case m.root == nil:
	case m.root.Disk == nil:
		share(id)
	default:
		_, err := v.machine.API().RemoveDisk(ctx, &vmmv1.RemoveDiskRequest{Serial: id})
		done("disk "+id, err)
	}
	for _, bind := range m.prepared.guest.Binds {
		share(bind.Name)
	}
	if m.thread != 0 {
		_, err := v.machine.API().RemoveThread(ctx, &vmmv1.RemoveThreadRequest{Id: m.thread})
		done("the container's thread", err)
	}
	return errors.Join(errs...)
}
