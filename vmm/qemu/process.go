package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// drain is how long the lines of a QEMU that is gone may still be open. Nobody else holds them unless it broke out.
const drain = time.Second

// exitTimeout is for QEMU to exit once it has said its last; it has to give back the guest's memory.
const exitTimeout = 30 * time.Second

// statusTimeout is for QEMU to say why it stopped the guest.
const statusTimeout = 10 * time.Second

// Process is one QEMU with its guest.
//
//	Start ── Run ──▶ running ◀── Pause/Resume ──▶ paused
//	                    └──── guest's end, Kill, Close ────▶ ended
//
// Done is closed when QEMU is gone and reaped. Close is due in every case.
type Process struct {
	log     *slog.Logger
	path    string
	process *os.Process
	qmp     *monitor
	stderr  *tail
	stopped chan struct{} // has room for one: QEMU stopped the guest, for whatever reason
	done    chan struct{}

	asked atomic.Bool

	mu       sync.Mutex
	shutdown string // reason of the first SHUTDOWN event
	run      string // see account
	end      End    // valid once done is closed
}

// Start starts QEMU and returns when its machine is complete: the guest runs at Run. The process it returns does not
// depend on ctx.
func Start(ctx context.Context, cfg Config) (*Process, error) {
	defer cfg.close()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	p := &Process{log: cfg.Log, path: cfg.Binary.Path, stopped: make(chan struct{}, 1), done: make(chan struct{})}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if err := p.start(&cfg); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.path, err)
	}
	if err := p.qmp.negotiate(ctx); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.path, p.failure(err, len(cfg.Devices)))
	}
	p.log.Info("QEMU started", "pid", p.PID(), "path", p.path, "kvm", cfg.KVM)
	return p, nil
}

func (p *Process) start(cfg *Config) error {
	b, err := boardOf(cfg.Arch)
	if err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	qmp, qmpPeer, err := Pair("QMP")
	if err != nil {
		return err
	}
	defer qmpPeer.Close()
	stderr, stderrPeer, err := os.Pipe()
	if err != nil {
		_ = qmp.Close()
		return err
	}
	defer stderrPeer.Close()
	args, inherited := arguments(cfg, b, qmpPeer)
	var exited <-chan syscall.WaitStatus
	p.process, exited, err = spawn(cfg, args, append([]*os.File{null, null, stderrPeer}, inherited...))
	if err != nil {
		_ = qmp.Close()
		_ = stderr.Close()
		return err
	}
	p.qmp, p.stderr = newMonitor(qmp, p.event), newTail(stderr)
	go p.watch(exited)
	return nil
}

// failure ends a QEMU that does not come up. If it ended by itself, its own words tell more than the line's end.
func (p *Process) failure(err error, backends int) error {
	if errors.Is(err, ErrGone) {
		select {
		case <-p.done:
		case <-time.After(drain):
		}
	}
	_ = p.Close()
	if end := p.End(); end.Reason != Stopped {
		err = errors.New(end.String())
		if r := remedy(end.Detail); r != "" {
			err = fmt.Errorf("%s (%w)", r, err)
		}
	} else if backends > 0 {
		err = fmt.Errorf("%w (QEMU waits for each of the %d vhost-user back ends to answer)", err, backends)
	}
	return err
}

// event is called for each of QEMU's events.
func (p *Process) event(name string, data json.RawMessage) {
	switch name {
	case "SHUTDOWN":
		var d struct {
			Reason string `json:"reason"`
		}
		_ = json.Unmarshal(data, &d) // without a reason, the exit status tells what there is to tell
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.shutdown == "" {
			p.shutdown = d.Reason
		}
	case "STOP":
		select {
		case p.stopped <- struct{}{}:
		default: // it will be asked about this one too
		}
	}
}

// watch stays with the process to its end.
func (p *Process) watch(exited <-chan syscall.WaitStatus) {
	var w sync.WaitGroup
	w.Go(p.judgeStops)
	status, broken := p.wait(exited)
	p.qmp.finish(drain)
	stderr := p.stderr.finish(drain)
	w.Wait()
	p.mu.Lock()
	end := account{
		asked: p.asked.Load(), shutdown: p.shutdown, run: p.run, broken: broken, status: status, stderr: stderr,
	}.end()
	p.end = end
	p.mu.Unlock()
	p.log.Info("QEMU ended", "pid", p.PID(), "reason", end.Reason.String(), "detail", end.Detail)
	close(p.done)
}

// wait returns the wait status. A QEMU that can no longer be steered does not stay.
func (p *Process) wait(exited <-chan syscall.WaitStatus) (status syscall.WaitStatus, broken error) {
	select {
	case status = <-exited:
		return status, nil
	case <-p.qmp.done:
	}
	if broken = p.qmp.cause(); errors.Is(broken, ErrGone) {
		select {
		case status = <-exited:
			return status, nil
		case <-time.After(exitTimeout):
			broken = errors.New("QEMU closed it and goes on")
		}
	}
	_ = p.kill()
	return <-exited, broken
}

// fatal are the statuses that a guest does not come back from (qapi/run-state.json, RunState).
var fatal = map[string]bool{"internal-error": true, "guest-panicked": true, "io-error": true, "watchdog": true, "shutdown": true}

// judgeStops ends a guest that QEMU itself stopped: it would wait for somebody to look at it.
func (p *Process) judgeStops() {
	for {
		select {
		case <-p.qmp.done:
			return
		case <-p.stopped:
		}
		ctx, cancel := context.WithTimeout(context.Background(), statusTimeout)
		status, err := p.status(ctx)
		cancel()
		if err != nil || !fatal[status] {
			continue
		}
		p.mu.Lock()
		p.run = status
		p.mu.Unlock()
		_ = p.kill()
	}
}

// Run lets the guest run for the first time.
func (p *Process) Run(ctx context.Context) error { return p.qmp.call(ctx, "cont", nil) }

// PID is QEMU's process id.
func (p *Process) PID() int { return p.process.Pid }

// Done is closed when QEMU is gone and reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// End is how the guest ended; after Done.
func (p *Process) End() End {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.end
}

// Kill sends SIGKILL. A process that is gone already is no error.
func (p *Process) Kill() error {
	p.asked.Store(true)
	return p.kill()
}

func (p *Process) kill() error {
	if err := p.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill QEMU %d: %w", p.PID(), err)
	}
	return nil
}

// Close ends the guest, if it still runs, and returns when nothing of it is left.
func (p *Process) Close() error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := p.Kill(); err != nil {
		return err
	}
	<-p.done
	return nil
}
