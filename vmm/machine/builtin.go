package machine

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"

	"github.com/huskvm/husk/vmm/arch"
	"github.com/huskvm/husk/vmm/bus"
	"github.com/huskvm/husk/vmm/eventfd"
	"github.com/huskvm/husk/vmm/kvm"
	"github.com/huskvm/husk/vmm/marks"
	"github.com/huskvm/husk/vmm/memory"
	"github.com/huskvm/husk/vmm/vcpu"
	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/console"
	"github.com/huskvm/husk/vmm/virtio/mmio"
)

// builtin is the VMM of this process: KVM, with the devices behind MMIO transports.
type builtin struct {
	log     *slog.Logger
	marks   *marks.List
	console *console.Ring // what a serial port says goes there as well

	system   *kvm.System
	vm       *kvm.VM
	platform *arch.Platform
	memory   *memory.Space
	mmio     bus.Bus
	ports    bus.Bus
	slots    []arch.Slot
	cpus     []*kvm.VCPU
	set      *vcpu.Set // nil before load

	transports []*mmio.Transport
	pausers    []pauser
	closers    []func() error // run in reverse order
}

// pauser is a device that somebody outside of this process serves.
type pauser interface {
	Pause() error
	Resume() error
}

// newBuiltin creates the VM and its memory. On error everything is released, device too.
func newBuiltin(device *os.File, cfg *Config, ring *console.Ring) (*builtin, error) {
	b := &builtin{log: cfg.Log, marks: cfg.Marks, console: ring}
	if err := b.create(device, cfg); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

func (b *builtin) create(device *os.File, cfg *Config) error {
	var err error
	if b.system, err = kvm.New(device); err != nil {
		return errors.Join(err, device.Close())
	}
	b.closers = append(b.closers, b.system.Close)
	if err := b.system.Require(arch.Required...); err != nil {
		return err
	}
	if b.vm, err = b.system.CreateVM(0); err != nil {
		return err
	}
	b.closers = append(b.closers, b.vm.Close)
	if b.platform, err = arch.NewPlatform(b.system, b.vm, cfg.VCPUs); err != nil {
		return err
	}
	b.marks.Add("kvm")
	if err := b.createMemory(cfg.Memory); err != nil {
		return err
	}
	b.marks.Add("memory")
	return nil
}

func (b *builtin) createMemory(size uint64) error {
	ranges, err := arch.MemoryRanges(size)
	if err != nil {
		return err
	}
	var regions []memory.Region
	for i, r := range ranges {
		m, err := memory.Map(r.Size)
		if err != nil {
			return err
		}
		b.closers = append(b.closers, func() error { return memory.Unmap(m) })
		if err := b.vm.SetMemory(uint32(i), r.Base, m, 0); err != nil {
			return err
		}
		regions = append(regions, memory.Region{Base: r.Base, Bytes: m})
	}
	b.memory, err = memory.NewSpace(regions...)
	return err
}

func (b *builtin) has(virtio.ID) bool { return false }

// attachNIC is never called, as has says.
func (b *builtin) attachNIC(n NIC) error {
	n.close()
	return errors.New("the built-in VMM has no network devices of its own")
}

func (b *builtin) room() int { return arch.MaxSlots - len(b.slots) }

// attach puts a device on the bus, and its interrupt and doorbells into KVM.
func (b *builtin) attach(d virtio.Device) error {
	slot, err := arch.MMIOSlot(len(b.slots))
	if err != nil {
		return err
	}
	irq, err := b.bindIRQ(slot.IRQ)
	if err != nil {
		return err
	}
	t, err := mmio.New(mmio.Config{Device: d, Memory: b.memory, Interrupt: irq, Log: b.log})
	if err != nil {
		return err
	}
	b.transports = append(b.transports, t)
	if p, ok := d.(pauser); ok {
		b.pausers = append(b.pausers, p)
	}
	for i, kick := range t.Kicks() {
		queue := uint64(i)
		if err := b.vm.BindDoorbell(kick.FD(), kvm.Doorbell{Addr: slot.Base + mmio.NotifyOffset, Size: 4, Match: &queue}); err != nil {
			return err
		}
	}
	if err := b.mmio.Insert(slot.Base, mmio.WindowSize, t); err != nil {
		return fmt.Errorf("device %d: %w", d.ID(), err)
	}
	b.slots = append(b.slots, slot)
	return nil
}

// bindIRQ returns an eventfd that raises an interrupt line.
func (b *builtin) bindIRQ(line uint32) (*eventfd.EventFD, error) {
	irq, err := eventfd.New()
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, irq.Close)
	return irq, b.vm.BindIRQ(irq.FD(), line)
}

func (b *builtin) load(cfg *Config) error {
	cpus := make([]vcpu.CPU, cfg.VCPUs)
	for i := range cpus {
		c, err := b.platform.AddCPU(i)
		if err != nil {
			return err
		}
		b.cpus = append(b.cpus, c)
		b.closers = append(b.closers, c.Close)
		cpus[i] = c
	}
	b.marks.Add("vcpus")
	if err := b.loadKernel(cfg); err != nil {
		return err
	}
	b.marks.Add("kernel loaded")
	b.set = vcpu.NewSet(cpus, &b.mmio, &b.ports)
	return b.addLegacy(cfg.Serial)
}

func (b *builtin) start() error {
	b.set.Start()
	return nil
}

func (b *builtin) pause() error {
	if err := b.set.Pause(); err != nil {
		return err
	}
	for _, p := range b.pausers {
		if err := p.Pause(); err != nil {
			return errors.Join(err, b.resume())
		}
	}
	return nil
}

func (b *builtin) resume() error {
	for _, p := range b.pausers {
		if err := p.Resume(); err != nil {
			return err
		}
	}
	return b.set.Resume()
}

func (b *builtin) done() <-chan struct{}    { return b.set.Done() }
func (b *builtin) end() vcpu.End            { return b.set.Result() }
func (b *builtin) exits() map[string]uint64 { return b.set.Exits() }

func (b *builtin) stop() error {
	if b.set != nil {
		b.set.Stop()
	}
	var errs []error
	for _, t := range b.transports {
		errs = append(errs, t.Close())
	}
	b.transports = nil
	return errors.Join(errs...)
}

func (b *builtin) close() error {
	var errs []error
	for i := len(b.closers) - 1; i >= 0; i-- {
		errs = append(errs, b.closers[i]())
	}
	b.closers = nil
	// The memory was mapped by name until here.
	runtime.KeepAlive(b.memory)
	return errors.Join(errs...)
}
