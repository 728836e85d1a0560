// Package machine puts a virtual machine together from its parts, and is the only place where they meet: KVM, memory,
// vCPUs, the kernel, and virtio devices behind MMIO transports.
package machine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"

	"github.com/huskvm/husk/vmm/arch"
	"github.com/huskvm/husk/vmm/boot"
	"github.com/huskvm/husk/vmm/bus"
	"github.com/huskvm/husk/vmm/kvm"
	"github.com/huskvm/husk/vmm/marks"
	"github.com/huskvm/husk/vmm/memory"
	"github.com/huskvm/husk/vmm/vcpu"
	"github.com/huskvm/husk/vmm/virtio/console"
	"github.com/huskvm/husk/vmm/virtio/fs"
	"github.com/huskvm/husk/vmm/virtio/vsock"
)

// Machine is one virtual machine.
//
//	New ── Start ──▶ running ◀── Pause/Resume ──▶ paused
//	                    └──────── guest's end, Close ────▶ ended
//
// Done is closed at the end; Close releases everything and is due in every case.
type Machine struct {
	log     *slog.Logger
	marks   *marks.List
	console *console.Ring

	system  *kvm.System
	vm      *kvm.VM
	memory  *memory.Space
	mmio    bus.Bus
	ports   bus.Bus
	cpus    []*kvm.VCPU
	set     *vcpu.Set
	slots   []arch.Slot
	vsock   *vsock.Device // nil when the guest has none
	shares  *fs.Device
	closers []func() error // run in reverse order
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
	defer cfg.Kernel.Close()
	if cfg.Initramfs != nil {
		defer cfg.Initramfs.Close()
	}
	platform, err := m.createVM(cfg)
	if err != nil {
		return err
	}
	m.marks.Add("kvm")
	if err := m.createMemory(cfg.Memory); err != nil {
		return err
	}
	m.marks.Add("memory")
	if err := m.createDevices(cfg); err != nil {
		return err
	}
	m.marks.Add("devices")
	cpus := make([]vcpu.CPU, cfg.VCPUs)
	for i := range cpus {
		c, err := platform.AddCPU(i)
		if err != nil {
			return err
		}
		m.cpus = append(m.cpus, c)
		m.closers = append(m.closers, c.Close)
		cpus[i] = c
	}
	m.marks.Add("vcpus")
	if err := m.load(cfg); err != nil {
		return err
	}
	m.marks.Add("kernel loaded")
	m.set = vcpu.NewSet(cpus, &m.mmio, &m.ports)
	return m.addLegacy(cfg.Serial)
}

func (m *Machine) createVM(cfg *Config) (*arch.Platform, error) {
	var err error
	if m.system, err = kvm.New(cfg.KVM); err != nil {
		return nil, err
	}
	m.closers = append(m.closers, m.system.Close)
	if err := m.system.Require(arch.Required...); err != nil {
		return nil, err
	}
	if err := kvm.CheckHardware(); err != nil {
		return nil, fmt.Errorf("use KVM: %w", err)
	}
	if m.vm, err = m.system.CreateVM(0); err != nil {
		return nil, err
	}
	m.closers = append(m.closers, m.vm.Close)
	return arch.NewPlatform(m.system, m.vm, cfg.VCPUs)
}

func (m *Machine) createMemory(size uint64) error {
	ranges, err := arch.MemoryRanges(size)
	if err != nil {
		return err
	}
	var regions []memory.Region
	for i, r := range ranges {
		b, err := memory.Map(r.Size)
		if err != nil {
			return err
		}
		m.closers = append(m.closers, func() error { return memory.Unmap(b) })
		if err := m.vm.SetMemory(uint32(i), r.Base, b, 0); err != nil {
			return err
		}
		regions = append(regions, memory.Region{Base: r.Base, Bytes: b})
	}
	m.memory, err = memory.NewSpace(regions...)
	return err
}

func (m *Machine) load(cfg *Config) error {
	if err := arch.WriteTables(m.memory, cfg.VCPUs); err != nil {
		return err
	}
	cmdline, err := arch.Cmdline(arch.KernelWords(cfg.Serial != nil, m.slots), consoles(cfg)+cfg.Cmdline)
	if err != nil {
		return err
	}
	params := boot.Params{Cmdline: cmdline, Seed: make([]byte, 64)}
	if _, err := rand.Read(params.Seed); err != nil {
		return fmt.Errorf("draw a seed for the guest: %w", err)
	}
	if params.Kernel, err = boot.NewImage(cfg.Kernel); err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	if cfg.Initramfs != nil {
		if params.Initramfs, err = boot.NewImage(cfg.Initramfs); err != nil {
			return fmt.Errorf("initramfs: %w", err)
		}
	}
	entry, err := boot.Load(m.memory, params)
	if err != nil {
		return err
	}
	return arch.Enter(m.cpus[0], m.memory, entry)
}

// consoles are the kernel's consoles; the last one is init's too.
func consoles(cfg *Config) string {
	if cfg.Serial != nil {
		return "" // it is there from the first message on, and once is enough
	}
	return "console=hvc0 "
}

// Start lets the guest run.
func (m *Machine) Start() {
	m.marks.Add("first run")
	m.set.Start()
}

// Done is closed when the guest has ended.
func (m *Machine) Done() <-chan struct{} { return m.set.Done() }

// End is how the guest ended; after Done.
func (m *Machine) End() vcpu.End { return m.set.Result() }

// Pause returns when no vCPU runs.
func (m *Machine) Pause() error { return m.set.Pause() }

// Resume lets them run again.
func (m *Machine) Resume() error { return m.set.Resume() }

// Exits counts the guest's exits by reason.
func (m *Machine) Exits() map[string]uint64 { return m.set.Exits() }

// ConsoleTail is the last of what the guest said.
func (m *Machine) ConsoleTail() []byte { return m.console.Tail() }

// ServeVsock connects whoever connects to l with the guest's vsock ports, until ctx is done (see vsock.Device.Serve).
func (m *Machine) ServeVsock(ctx context.Context, l net.Listener) error { return m.vsock.Serve(ctx, l) }

// AddShare makes a further directory or file appear in the guest's shared file system.
func (m *Machine) AddShare(s Share) error { return m.shares.AddShare(s.Name, s.File, s.ReadOnly) }

// RemoveShare takes one away; what is open of it stays usable.
func (m *Machine) RemoveShare(name string) error { return m.shares.RemoveShare(name) }

// Close ends the guest, if it still runs, and releases everything.
func (m *Machine) Close() error {
	if m.set != nil {
		m.set.Stop()
	}
	var errs []error
	for i := len(m.closers) - 1; i >= 0; i-- {
		errs = append(errs, m.closers[i]())
	}
	m.closers = nil
	// The memory was mapped by name until here.
	runtime.KeepAlive(m.memory)
	return errors.Join(errs...)
}
