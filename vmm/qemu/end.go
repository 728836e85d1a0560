package qemu

import (
	"fmt"
	"syscall"
)

// Reason is the kind of an End.
type Reason uint8

// How a guest in QEMU can end.
const (
	// Stopped: Kill or Close was called.
	Stopped Reason = iota
	// PowerOff: the guest asked to be switched off.
	PowerOff
	// Reset: the guest asked to be restarted, as it also does after a panic. A triple fault is told as the same.
	Reset
	// Crashed: the guest told the platform that it crashed.
	Crashed
	// InternalError: QEMU could not go on with the guest.
	InternalError
	// Killed: somebody else ended QEMU by a signal. The kernel does so when memory is out.
	Killed
	// Died: QEMU ended by itself.
	Died
)

var reasonNames = [...]string{
	Stopped:       "stopped by the VMM",
	PowerOff:      "powered off by the guest",
	Reset:         "reset by the guest",
	Crashed:       "crash reported by the guest",
	InternalError: "QEMU internal error",
	Killed:        "QEMU was killed",
	Died:          "QEMU died",
}

// String is the reason in a few words.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// End is why a guest ended.
type End struct {
	Reason Reason
	Detail string // for people: the signal, QEMU's last words
}

func (e End) String() string {
	if e.Detail == "" {
		return e.Reason.String()
	}
	return e.Reason.String() + ": " + e.Detail
}

// account is all that is known of an end.
type account struct {
	asked    bool   // Kill or Close was called
	shutdown string // reason of the SHUTDOWN event; empty when there was none
	run      string // status in which QEMU stopped the guest for good; empty when it did not
	broken   error  // what made the QMP line useless; nil when it ended as it should
	status   syscall.WaitStatus
	stderr   string
}

// reasonsOfShutdown are QEMU's ShutdownCause (qapi/run-state.json). What is not listed, host-error, is for the exit
// status to tell, and so are the causes of what husk does not do.
var reasonsOfShutdown = map[string]Reason{
	"host-signal":           Killed, // SIGTERM, SIGINT and SIGHUP are handled
	"guest-shutdown":        PowerOff,
	"guest-reset":           Reset,
	"subsystem-reset":       Reset,
	"guest-panic":           Crashed,
	"host-qmp-quit":         Stopped,
	"host-qmp-system-reset": Stopped,
}

// end judges. What the guest did before it was stopped counts, what QEMU said last is added.
func (a account) end() End {
	if r, ok := reasonsOfShutdown[a.shutdown]; ok && (r != Killed || !a.asked) {
		return End{Reason: r}
	}
	switch {
	case a.broken != nil:
		return End{InternalError, join("its control line broke: "+a.broken.Error(), a.stderr)}
	case a.run == "guest-panicked":
		return End{Reason: Crashed}
	case a.run != "":
		return End{InternalError, join("it stopped the guest with the status "+a.run, a.stderr)}
	case a.asked:
		return End{Reason: Stopped}
	case a.status.Signaled() && deliberate(a.status.Signal()):
		return End{Killed, fmt.Sprintf("by signal %d (%v)", a.status.Signal(), a.status.Signal())}
	}
	return End{Died, join(last(a.status), a.stderr)}
}

// deliberate says whether a signal comes from somebody else, not from a fault of QEMU's own.
func deliberate(s syscall.Signal) bool {
	return s == syscall.SIGKILL || s == syscall.SIGTERM || s == syscall.SIGINT || s == syscall.SIGHUP
}

// last describes how a process went.
func last(s syscall.WaitStatus) string {
	switch {
	case s.Signaled() && s.Signal() == syscall.SIGSYS:
		return "its seccomp filter ended it for a forbidden system call"
	case s.Signaled():
		return fmt.Sprintf("of signal %d (%v)", s.Signal(), s.Signal())
	default:
		return fmt.Sprintf("with exit status %d", s.ExitStatus())
	}
}

func join(what, stderr string) string {
	if stderr == "" {
		return what
	}
	return what + "; it said: " + stderr
}
