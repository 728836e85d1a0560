package legacy

// commandPulseReset pulses the processor's reset line: what Linux does for reboot=k.
const commandPulseReset = 0xfe

// Reset is the command port of a keyboard controller without a keyboard: its status says that it is ready and
// has nothing, and its one command resets the machine.
type Reset struct {
	reset func()
}

// NewReset calls reset for every reset command, on the vCPU's thread.
func NewReset(reset func()) *Reset { return &Reset{reset: reset} }

// Read answers the status: a command may be written, no data waits.
func (*Reset) Read(_ uint64, p []byte) {
	for i := range p {
		p[i] = 0
	}
}

// Write takes a command.
func (r *Reset) Write(_ uint64, p []byte) {
	if len(p) == 1 && p[0] == commandPulseReset {
		r.reset()
	}
}
