package vcpu

import (
	"fmt"

	"github.com/huskvm/husk/vmm/kvm"
)

// dispatch serves the exit that Run came back with. A non-nil answer ends the guest.
func (r *runner) dispatch() *End {
	reason := r.cpu.Reason()
	r.exits[min(reason, exitKinds-1)].Add(1)
	switch reason {
	case kvm.ExitMMIO:
		m := r.cpu.MMIO()
		if m.Write {
			r.set.mmio.Write(m.Addr, m.Data)
		} else if !r.set.mmio.Read(m.Addr, m.Data) {
			float(m.Data)
		}
		return nil
	case kvm.ExitIO:
		r.ports()
		return nil
	case kvm.ExitIntr, kvm.ExitIRQWindowOpen:
		return nil
	default:
		return r.ending(reason)
	}
}

// ports serves a port access; a string instruction is several.
func (r *runner) ports() {
	p := r.cpu.PIO()
	for data := p.Data; p.Size > 0 && len(data) >= p.Size; data = data[p.Size:] {
		item := data[:p.Size]
		if p.Out {
			r.set.ports.Write(uint64(p.Port), item)
		} else if !r.set.ports.Read(uint64(p.Port), item) {
			float(item)
		}
	}
}

// float is what a bus without anyone on it reads as.
func float(p []byte) {
	for i := range p {
		p[i] = 0xff
	}
}

// ending is the End that an exit other than a device access means.
func (r *runner) ending(reason kvm.ExitReason) *End {
	end := &End{CPU: r.id}
	switch reason {
	case kvm.ExitShutdown:
		// On AMD's processors there is little to describe: KVM resets the vCPU before it tells.
		end.Reason, end.Detail = TripleFault, r.cpu.Describe()
	case kvm.ExitSystemEvent:
		event := r.cpu.SystemEvent()
		switch event.Type {
		case kvm.EventShutdown:
			end.Reason = PowerOff
		case kvm.EventReset:
			end.Reason = Reset
		case kvm.EventCrash:
			end.Reason, end.Detail = Crashed, fmt.Sprintf("data %#x", event.Data)
		default:
			end.Reason, end.Detail = UnknownExit, fmt.Sprintf("system event %d, data %#x", event.Type, event.Data)
		}
	case kvm.ExitInternalError:
		end.Reason, end.Detail = InternalError, r.cpu.InternalError().Error()+"\n"+r.cpu.Describe()
	case kvm.ExitFailEntry:
		end.Reason, end.Detail = EntryFailed, r.cpu.FailEntry().Error()+"\n"+r.cpu.Describe()
	default:
		end.Reason, end.Detail = UnknownExit, reason.String()+"\n"+r.cpu.Describe()
	}
	return end
}
