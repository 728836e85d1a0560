package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	vmmv1 "github.com/huskvm/husk/proto/husk/vmm/v1"
	"github.com/huskvm/husk/shim/internal/bundle"
	"github.com/huskvm/husk/shim/internal/container"
	"github.com/huskvm/husk/shim/internal/hooks"
	"github.com/huskvm/husk/shim/internal/mounts"
	"github.com/huskvm/husk/shim/internal/rundir"
	"github.com/huskvm/husk/shim/internal/stdio"
)

// openTime is how long the readers of output fifos may keep Create waiting.
const openTime = 10 * time.Second

// member is a container with what it uses on the host.
type member struct {
	*container.Container // nil while it is being created
	first                bool
	spec                 *specs.Spec // the host's
	thread               uint32      // of the VMM, that stands for a further container on the host; see vm.addThread
	prepared
}

// prepared is a container's part on the host, before the guest hears of it.
type prepared struct {
	guest   *bundle.Guest
	brought *mounts.Brought
	root    *mounts.Root
	binds   []*os.File // in the order of guest.Binds
	session *stdio.Session
	dir     string
	hooks   hooks.Set
	hooked  bool // some of them have run, so that those of the end are due
}

// prepare mounts and opens what the container needs. On error nothing is left.
func (s *Sandbox) prepare(ctx context.Context, v *vm, r Request, spec *specs.Spec, guest *bundle.Guest) (p prepared, err error) {
	p = prepared{
		guest: guest, dir: s.Dir.Join(rundir.Containers + "/" + guest.RootID),
		hooks: hooks.Of(r.ID, r.Bundle, spec),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
			p = prepared{}
		}
	}()
	if p.brought, err = s.Engine.Bring(sources(r, spec, guest)); err != nil {
		return p, err
	}
	if !r.pause {
		if err = p.openRoot(r, spec); err != nil {
			return p, err
		}
	}
	for _, bind := range guest.Binds {
		f, err := mounts.OpenSource(bind.Source, bind.Recursive)
		if err != nil {
			return p, err
		}
		p.binds = append(p.binds, f)
	}
	p.session, err = s.openStdio(ctx, v, r.ID, r.Stdio)
	return p, err
}

// sources are the host's paths that the container is made of.
func sources(r Request, spec *specs.Spec, guest *bundle.Guest) []string {
	paths := mounts.Sources(r.Rootfs)
	if root, err := bundle.HostRoot(r.Bundle, spec); err == nil && len(r.Rootfs) == 0 {
		paths = append(paths, root)
	}
	for _, bind := range guest.Binds {
		paths = append(paths, bind.Source)
	}
	return paths
}

func (p *prepared) openRoot(r Request, spec *specs.Spec) (err error) {
	path := ""
	if len(r.Rootfs) == 0 {
		if path, err = bundle.HostRoot(r.Bundle, spec); err != nil {
			return err
		}
	}
	if p.root, err = mounts.OpenRoot(r.Rootfs, p.dir+"/root", path); err != nil {
		return err
	}
	if p.root.Disk != nil {
		p.guest.Spec.Root.Path = bundle.DiskPath(p.guest.RootID)
		p.guest.LimitDisk(spec, p.root.Disk.Devices)
		return nil
	}
	p.guest.Spec.Root.Path = bundle.GuestPath(p.guest.RootID)
	err = mounts.CheckArchitecture(p.root.File, spec.Process.Args, spec.Process.Env, spec.Process.Cwd)
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return nil
}

func (s *Sandbox) openStdio(ctx context.Context, v *vm, id string, streams stdio.Config) (*stdio.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	return stdio.Open(ctx, v.hub, streams, stdio.Owner{Namespace: s.Namespace, ID: id})
}

// runHooks runs those that come before the container is made. pid stands for it on the host.
func (p *prepared) runHooks(ctx context.Context, pid uint32) error {
	p.hooked = true
	return p.hooks.Create(ctx, int(pid))
}

// close gives back what prepare took, and runs the hooks that come after the container's end. The VM must be gone, or
// have given the shares up.
func (p *prepared) close() error {
	var errs []error
	if p.session != nil {
		p.session.Close()
	}
	for _, f := range p.binds {
		_ = f.Close()
	}
	if p.root != nil {
		errs = append(errs, p.root.Close())
	}
	if p.brought != nil {
		errs = append(errs, p.brought.Close())
	}
	errs = append(errs, os.RemoveAll(p.dir))
	if p.hooked {
		p.hooked = false
		if err := p.hooks.PostStop(context.Background()); err != nil {
			log.L.WithError(err).WithField("id", p.hooks.Container.ID).Warn("hooks failed")
		}
	}
	return errors.Join(errs...)
}

// donate gives the VMM the container's shares and disks. The files stay the shim's, for as long as the VM uses
// them the VMM has its own. With acls, all shares have ACLs in the guest.
func (p *prepared) donate(m machine, acls bool) (shares []*vmmv1.Share, disks []*vmmv1.Disk, err error) {
	if p.root != nil {
		token, err := m.Donate(p.root.File)
		if err != nil {
			return nil, nil, err
		}
		if disk := p.root.Disk; disk != nil {
			disks = append(disks, &vmmv1.Disk{Serial: p.guest.RootID, Fd: token, ReadOnly: disk.ReadOnly})
		} else {
			shares = append(shares, &vmmv1.Share{Name: p.guest.RootID, Fd: token, Root: true})
		}
	}
	for i, bind := range p.guest.Binds {
		token, err := m.Donate(p.binds[i])
		if err != nil {
			return nil, nil, err
		}
		shares = append(shares, &vmmv1.Share{Name: bind.Name, Fd: token, ReadOnly: bind.ReadOnly, Inline: bind.Inline || acls})
	}
	return shares, disks, nil
}

// storages are what the guest mounts by itself before it creates the container.
func (m *member) storages(identity bundle.Identity) (list []*agentv1.Storage) {
	if m.root == nil {
		list = append(list, &agentv1.Storage{Fstype: "tmpfs", Target: bundle.PauseRoot, Options: []string{"mode=755", "size=64k"}})
	} else if disk := m.root.Disk; disk != nil {
		list = append(list, &agentv1.Storage{
			Serial: m.guest.RootID, Fstype: disk.FSType, Options: disk.Options, Target: bundle.DiskPath(m.guest.RootID),
			StandsFor: standsFor(disk.Devices), Sectors: disk.Sectors,
		})
	}
	if identity.Kind == bundle.Pod {
		list = append(list, sharedMemory(m.guest.SharedMemory))
	}
	return list
}

func standsFor(devices []bundle.Device) (list []*agentv1.Device) {
	for _, d := range devices {
		list = append(list, &agentv1.Device{Major: uint32(d.Major), Minor: uint32(d.Minor)})
	}
	return list
}

// devices are the host's that the container's disk stands for.
func (p *prepared) devices() []bundle.Device {
	if p.root == nil || p.root.Disk == nil {
		return nil
	}
	return p.root.Disk.Devices
}

// release takes a container's part on the host back, from the VM first when that goes on without it.
func (s *Sandbox) release(ctx context.Context, m *member) error {
	s.mu.Lock()
	v := s.vm
	s.mu.Unlock()
	var err error
	if !m.first && v != nil && v.ctx.Err() == nil {
		err = v.takeBack(ctx, m)
	}
	return errors.Join(err, m.prepared.close())
}
