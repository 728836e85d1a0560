// Package machine puts a virtual machine together from its parts, and is the only place where they meet: what runs the
// guest, its kernel, and the virtio devices.
package machine

import (
	"context"
	"errors"
	"log/slog"
	"net"

	"github.com/huskvm/husk/vmm/marks"
	"github.com/huskvm/husk/vmm/vcpu"
	"github.com/huskvm/husk/vmm/virtio/console"
	"github.com/huskvm/husk/vmm/virtio/fs"
	"github.com/huskvm/husk/vmm/virtio/fs/passthrough"
	"github.com/huskvm/husk/vmm/virtio/vsock"
)

// Machine is one virtual machine.
//
//	New ── Start ──▶ running ◀── Pause/Resume ──▶ paused
//	                    └──────── guest's end, Close ────▶ ended
//
// Done is closed at the end; Close releases everything and is due in every case.
type Machine struct {
	log        *slog.Logger
	marks      *marks.List
	console    *console.Ring
	hypervisor hypervisor    // nil when New failed before it
	vsock      *vsock.Device // nil when the guest has none
	shares     *fs.Device
	late       lateDisks
	closers    []func() error // the devices', run in reverse order
}

// New builds the machine up to its first instruction. Everything that has to be opened is open afterwards.
func New(cfg Config) (*Machine, error) {
	m := &Machine{log: cfg.Log, marks: cfg.Marks, console: &console.Ring{}}
	if err := m.build(&cfg); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func (m *Machine) build(cfg *Config) error {
	if err := cfg.check(); err != nil {
		cfg.close()
		return err
	}
	defer cfg.closeImages()
	if err := m.createHypervisor(cfg); err != nil {
		cfg.closeDevices()
		return err
	}
	if err := m.createDevices(cfg); err != nil {
		return err
	}
	m.marks.Add("devices")
	return m.hypervisor.load(cfg)
}

func (m *Machine) createHypervisor(cfg *Config) error {
	if cfg.KVM == nil {
		m.hypervisor = newEmulated(cfg, m.console)
		return nil
	}
	b, err := newBuiltin(cfg.KVM, cfg, m.console)
	if err == nil {
		m.hypervisor = b // and never an interface that holds a nil
	}
	return err
}

// Start lets the guest run.
func (m *Machine) Start() error {
	m.marks.Add("first run")
	return m.hypervisor.start()
}

// Done is closed when the guest has ended.
func (m *Machine) Done() <-chan struct{} { return m.hypervisor.done() }

// End is how the guest ended; after Done.
func (m *Machine) End() vcpu.End { return m.hypervisor.end() }

// Pause returns when no vCPU runs.
func (m *Machine) Pause() error { return m.hypervisor.pause() }

// Resume lets them run again.
func (m *Machine) Resume() error { return m.hypervisor.resume() }

// Exits counts the guest's exits by reason, where the hypervisor can tell.
func (m *Machine) Exits() map[string]uint64 { return m.hypervisor.exits() }

// ConsoleTail is the last of what the guest said.
func (m *Machine) ConsoleTail() []byte { return m.console.Tail() }

// ServeVsock connects whoever connects to l with the guest's vsock ports, until ctx is done (see vsock.Device.Serve).
func (m *Machine) ServeVsock(ctx context.Context, l net.Listener) error { return m.vsock.Serve(ctx, l) }

// AddShare makes a further directory or file appear in the guest's shared file system.
func (m *Machine) AddShare(s Share) error {
	return m.shares.AddShareWith(s.Name, s.File, passthrough.Options{ReadOnly: s.ReadOnly, Inline: s.Inline, Root: s.Root})
}

// RemoveShare takes one away; what is open of it stays usable.
func (m *Machine) RemoveShare(name string) error { return m.shares.RemoveShare(name) }

// Crowded receives when the guest should forget the files that it does not use.
func (m *Machine) Crowded() <-chan struct{} { return m.shares.Crowded() }

// Close ends the guest, if it still runs, and releases everything.
func (m *Machine) Close() error {
	var errs []error
	if m.hypervisor != nil {
		errs = append(errs, m.hypervisor.stop())
	}
	for i := len(m.closers) - 1; i >= 0; i-- {
		errs = append(errs, m.closers[i]())
	}
	m.closers = nil
	if m.hypervisor != nil {
		errs = append(errs, m.hypervisor.close())
	}
	return errors.Join(errs...)
}
