package machine

import (
	"io"
	"time"

	"github.com/huskvm/husk/vmm/arch"
	"github.com/huskvm/husk/vmm/eventfd"
	"github.com/huskvm/husk/vmm/legacy"
	"github.com/huskvm/husk/vmm/vcpu"
)

// addLegacy puts on the port bus what a kernel still looks for there.
func (m *Machine) addLegacy(serial io.Writer) error {
	reset := legacy.NewReset(func() { m.set.End(vcpu.End{Reason: vcpu.Reset, CPU: vcpu.NoCPU}) })
	if err := m.ports.Insert(legacy.ResetPort, legacy.ResetPorts, reset); err != nil {
		return err
	}
	if err := m.ports.Insert(legacy.ClockPort, legacy.ClockPorts, legacy.NewClock(time.Now)); err != nil {
		return err
	}
	if serial == nil {
		return nil
	}
	irq, err := eventfd.New()
	if err != nil {
		return err
	}
	m.closers = append(m.closers, irq.Close)
	if err := m.vm.BindIRQ(irq.FD(), arch.SerialIRQ); err != nil {
		return err
	}
	// A serial console is for looking on: an interrupt that is lost costs a delay there and nothing else.
	port := legacy.NewSerial(io.MultiWriter(serial, m.console), func() { _ = irq.Signal() })
	return m.ports.Insert(legacy.SerialPort, legacy.SerialPorts, port)
}
