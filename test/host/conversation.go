package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/huskvm/husk/test/host/internal/wire"
)

const inspectDeadline = 5 * time.Second

const pulsePeriod = 250 * time.Millisecond

var (
	errGuestGone = errors.New("the guest died before it could say how the command ended")
	errSetUp     = errors.New("set up the host")
	errNoStatus  = errors.New("the guest reported an end without an exit status")
)

// end is how the command ended; with an error there is no status.
type end struct {
	status int
	err    error
}

// conversation is the machine's side of the port.
type conversation struct {
	commandStarted chan struct{}
	ended          chan end
	report         chan string // the answer to inspect

	frames *wire.Writer
	timing *timing

	mu      sync.Mutex
	mark    string
	started bool
}

// newConversation begins to take what comes from the port: output goes to stdout and stderr as it arrives.
// It ends when the port does.
func newConversation(port io.ReadWriter, timing *timing) *conversation {
	c := &conversation{
		commandStarted: make(chan struct{}, 1),
		ended:          make(chan end, 1),
		report:         make(chan string, 1),
		frames:         wire.NewWriter(port),
		timing:         timing,
	}
	go func() {
		status, err := c.listen(port, os.Stdout, os.Stderr)
		c.ended <- end{status, err}
	}()
	return c
}

// listen returns the command's exit status, once all its output is written.
func (c *conversation) listen(r io.Reader, stdout, stderr io.Writer) (int, error) {
	for {
		kind, payload, err := wire.Read(r)
		if err != nil {
			return 0, errGuestGone
		}
		switch kind {
		case wire.KindMark:
			err = c.take(payload)
		case wire.KindStdout:
			_, err = stdout.Write(payload)
		case wire.KindStderr:
			_, err = stderr.Write(payload)
		case wire.KindReport:
			select {
			case c.report <- string(payload):
			default:
			}
		case wire.KindFailure:
			return 0, fmt.Errorf("%w: %s", errSetUp, payload)
		case wire.KindExit:
			return parseExit(payload)
		default:
			err = fmt.Errorf("the guest sent a frame of unknown kind %d", kind)
		}
		if err != nil {
			return 0, err
		}
	}
}

func parseExit(payload []byte) (int, error) {
	var exit wire.Exit
	if err := json.Unmarshal(payload, &exit); err != nil {
		return 0, fmt.Errorf("decode exit status: %w", err)
	}
	if exit.Status == nil {
		return 0, errNoStatus
	}
	return *exit.Status, nil
}

func (c *conversation) take(payload []byte) error {
	var mark wire.Mark
	if err := json.Unmarshal(payload, &mark); err != nil {
		return fmt.Errorf("decode mark: %w", err)
	}
	c.timing.guestAt(mark)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mark = mark.Name
	if mark.Name == wire.MarkCommand && !c.started {
		c.started = true
		c.commandStarted <- struct{}{}
	}
	return nil
}

// lastMark names how far the guest has come.
func (c *conversation) lastMark() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mark == "" {
		return "none"
	}
	return c.mark
}

// sendInput passes r on to the command's stdin until it ends.
func (c *conversation) sendInput(r io.Reader) {
	// A guest that is gone ends the conversation by itself.
	if c.frames.Copy(wire.KindStdin, r) == nil {
		_ = c.frames.Write(wire.KindStdinEnd, nil)
	}
}

func (c *conversation) sendSize(size *wire.Winsize) {
	c.mu.Lock()
	started := c.started
	c.mu.Unlock()
	if size != nil && started {
		_ = c.frames.WriteJSON(wire.KindWinsize, size)
	}
}

// inspect asks the guest what is running, if it still answers.
func (c *conversation) inspect() (string, bool) {
	c.mu.Lock()
	started := c.started
	c.mu.Unlock()
	if !started {
		return "", false
	}
	// A guest that reads nothing must not keep us either.
	go func() { _ = c.frames.Write(wire.KindInspect, nil) }()
	select {
	case text := <-c.report:
		return text, true
	case <-time.After(inspectDeadline):
		return "", false
	}
}

// pulse interrupts the guest now and then, for ever. QEMU's software emulation (7.2) at times loses the interrupt of a
// processor's timer when that comes while a nested guest is entered or left. An idle kernel then sleeps for good,
// with its timer expired; any other interrupt lets it see that.
func (c *conversation) pulse() {
	for c.frames.Write(wire.KindPulse, nil) == nil {
		time.Sleep(pulsePeriod)
	}
}

func (c *conversation) goodbye() error { return c.frames.Write(wire.KindGoodbye, nil) }
