package machine

import (
	"crypto/rand"
	"fmt"
	"io"
	"time"

	"github.com/huskvm/husk/vmm/arch"
	"github.com/huskvm/husk/vmm/boot"
	"github.com/huskvm/husk/vmm/legacy"
	"github.com/huskvm/husk/vmm/vcpu"
)

func (b *builtin) loadKernel(cfg *Config) error {
	if err := arch.WriteTables(b.memory, cfg.VCPUs); err != nil {
		return err
	}
	cmdline, err := arch.Cmdline(arch.KernelWords(cfg.Serial != nil, b.slots), consoles(cfg)+cfg.Cmdline)
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
	entry, err := boot.Load(b.memory, params)
	if err != nil {
		return err
	}
	return arch.Enter(b.cpus[0], b.memory, entry)
}

// consoles are the kernel's consoles; the last one is init's too.
func consoles(cfg *Config) string {
	if cfg.Serial != nil {
		return "" // it is there from the first message on, and once is enough
	}
	return "console=hvc0 "
}

// addLegacy puts on the port bus what a kernel still looks for there.
func (b *builtin) addLegacy(serial io.Writer) error {
	reset := legacy.NewReset(func() { b.set.End(vcpu.End{Reason: vcpu.Reset, CPU: vcpu.NoCPU}) })
	if err := b.ports.Insert(legacy.ResetPort, legacy.ResetPorts, reset); err != nil {
		return err
	}
	if err := b.ports.Insert(legacy.ClockPort, legacy.ClockPorts, legacy.NewClock(time.Now)); err != nil {
		return err
	}
	if serial == nil {
		return nil
	}
	irq, err := b.bindIRQ(arch.SerialIRQ)
	if err != nil {
		return err
	}
	// A serial console is for looking on: an interrupt that is lost costs a delay there and nothing else.
	port := legacy.NewSerial(io.MultiWriter(serial, b.console), func() { _ = irq.Signal() })
	return b.ports.Insert(legacy.SerialPort, legacy.SerialPorts, port)
}
