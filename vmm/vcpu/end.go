package vcpu

import "fmt"

// Reason is the kind of an End.
type Reason uint8

// How a guest can end.
const (
	// Stopped: the VMM was told to stop it.
	Stopped Reason = iota
	// PowerOff: the guest asked to be switched off.
	PowerOff
	// Reset: the guest asked to be restarted, as it also does after a panic.
	Reset
	// TripleFault: the guest's processor met a fault it could not deliver.
	TripleFault
	// Crashed: the guest told the platform that it crashed.
	Crashed
	// EntryFailed: the host's processor refused the guest's state.
	EntryFailed
	// InternalError: KVM or QEMU could not go on, for instance with an instruction it can't emulate.
	InternalError
	// UnknownExit: KVM asked for something that husk does not serve.
	UnknownExit
	// RunFailed: KVM_RUN itself failed, or the QEMU that ran the guest.
	RunFailed
	// Killed: the QEMU that ran the guest was killed.
	Killed
)

var reasonNames = [...]string{
	Stopped:       "stopped by the VMM",
	PowerOff:      "powered off by the guest",
	Reset:         "reset by the guest",
	TripleFault:   "triple fault",
	Crashed:       "crash reported by the guest",
	EntryFailed:   "entry failed",
	InternalError: "internal error",
	UnknownExit:   "unexpected exit",
	RunFailed:     "running it failed",
	Killed:        "killed",
}

// String is the reason in a few words.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// NoCPU is the CPU of an End that no vCPU caused.
const NoCPU = -1

// End is why and where a guest ended.
type End struct {
	Reason Reason
	CPU    int    // of the vCPU that ended it, or NoCPU
	Detail string // for people: what KVM said, registers
}

func (e End) String() string {
	s := e.Reason.String()
	if e.CPU != NoCPU {
		s = fmt.Sprintf("%s on vCPU %d", s, e.CPU)
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}
