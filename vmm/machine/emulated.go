package machine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/huskvm/husk/vmm/marks"
	"github.com/huskvm/husk/vmm/qemu"
	"github.com/huskvm/husk/vmm/vcpu"
	"github.com/huskvm/husk/vmm/vhostuser"
	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/console"
)

// emulated is a QEMU process, with the devices behind vhost-user.
type emulated struct {
	log     *slog.Logger
	marks   *marks.List
	console *console.Ring
	arch    string

	devices  []qemu.Device
	nics     []qemu.NIC
	backends []*vhostuser.Backend
	serving  sync.WaitGroup // the back ends, and the console's pumps
	terminal *os.File       // our end of the console; nil before load
	process  *qemu.Process  // nil before load
}

func newEmulated(cfg *Config, ring *console.Ring) *emulated {
	return &emulated{log: cfg.Log, marks: cfg.Marks, console: ring, arch: cmp.Or(cfg.QEMU.Arch, runtime.GOARCH)}
}

// has: QEMU's own console, random numbers and balloon do as well as ours. Its vhost-user for networks takes sockets only
// that it has connected itself, and its own device reads the tap at once.
func (e *emulated) has(id virtio.ID) bool {
	return id == virtio.Console || id == virtio.Entropy || id == virtio.Balloon || id == virtio.Net
}

func (e *emulated) attachNIC(n NIC) error {
	e.nics = append(e.nics, qemu.NIC{Taps: n.Taps, MAC: n.MAC, MTU: n.MTU})
	return nil
}

// room is none for an architecture that load will refuse.
func (e *emulated) room() int {
	n, _ := qemu.Room(e.arch, len(e.devices)+len(e.nics))
	return n
}

// attach serves a device to QEMU over a socket pair.
func (e *emulated) attach(d virtio.Device) error {
	front := qemu.Device{}
	cfg := vhostuser.Config{Device: d, Log: e.log}
	switch d.ID() {
	case virtio.Vsock:
		front.Kind, cfg.Queues = qemu.Vsock, 2 // QEMU keeps the event queue to itself
	case virtio.FS:
		front.Kind, front.Tag, cfg.OwnConfig = qemu.FS, ShareTag, true
		front.Queues = len(d.Queues()) - 1 // one is the high-priority queue
	case virtio.Block:
		front.Kind, front.Queues = qemu.Block, len(d.Queues())
	default:
		return fmt.Errorf("device %d cannot be served to QEMU", d.ID())
	}
	ours, theirs, err := qemu.Pair("vhost-user")
	if err != nil {
		return err
	}
	conn, err := net.FileConn(ours)
	_ = ours.Close()
	if err != nil {
		_ = theirs.Close()
		return fmt.Errorf("serve device %d to QEMU: %w", d.ID(), err)
	}
	b, err := vhostuser.New(cfg)
	if err != nil {
		return errors.Join(err, conn.Close(), theirs.Close())
	}
	front.Front = theirs
	e.devices, e.backends = append(e.devices, front), append(e.backends, b)
	e.serving.Go(func() {
		if err := b.Serve(conn.(*net.UnixConn)); err != nil {
			e.log.Warn("QEMU's connection to a device broke", "device", uint32(d.ID()), "error", err)
		}
	})
	return nil
}

// load starts QEMU, with its guest before the first instruction.
func (e *emulated) load(cfg *Config) error {
	terminal, theirs, err := qemu.Pair("console")
	if err != nil {
		return err
	}
	e.terminal = terminal
	e.pump(cfg)
	if cfg.VCPUs > 1 { // how those are emulated depends on the version
		if cfg.QEMU.Binary, err = qemu.Find(e.arch, cfg.QEMU.Binary.Path); err != nil {
			return errors.Join(err, theirs.Close())
		}
	}
	q := qemu.Config{
		Binary: cfg.QEMU.Binary, Arch: e.arch, KVM: cfg.QEMU.Accelerated,
		VCPUs: cfg.VCPUs, MemoryBytes: cfg.Memory,
		Kernel: cfg.Kernel, Initramfs: cfg.Initramfs, Cmdline: cfg.Cmdline,
		Devices: e.devices, NICs: e.nics, Console: theirs, Log: e.log,
	}
	if n := q.Processors(); n < q.VCPUs {
		e.log.Warn("the guest gets fewer vCPUs: emulating several takes QEMU 8.1 or newer",
			"vcpus", n, "wanted", q.VCPUs, "qemu", q.Binary.Version.String())
	}
	for _, w := range slices.Backward(qemu.KernelWords(e.arch, cfg.QEMU.Accelerated)) {
		q.Cmdline = w.Word + " " + q.Cmdline
	}
	// All files are QEMU's from here on.
	e.devices, e.nics, cfg.Kernel, cfg.Initramfs = nil, nil, nil, nil
	// It loads itself from disk, and a busy host may take long. Whoever wants the VM knows how long to wait.
	if e.process, err = qemu.Start(context.Background(), q); err != nil {
		if _, unfit := qemu.Find(e.arch, cfg.QEMU.Binary.Path); unfit != nil {
			return unfit
		}
		return err
	}
	e.marks.Add("qemu started")
	return nil
}

// pump passes the console on, both ways, until QEMU's end of it closes.
func (e *emulated) pump(cfg *Config) {
	out := io.Writer(e.console)
	if cfg.Console != nil {
		out = io.MultiWriter(e.console, forgiving{cfg.Console})
	}
	e.serving.Go(func() { _, _ = io.Copy(out, e.terminal) })
	if cfg.Input != nil {
		// Not waited for: nothing ends a read of a terminal.
		go func() { _, _ = io.Copy(e.terminal, cfg.Input) }()
	}
}

// forgiving takes all that it is given, whatever becomes of it.
type forgiving struct{ io.Writer }

func (f forgiving) Write(p []byte) (int, error) {
	_, _ = f.Writer.Write(p)
	return len(p), nil
}

func (e *emulated) start() error {
	return e.process.Run(context.Background())
}

func (e *emulated) pause() error  { return ended(e.process.Pause()) }
func (e *emulated) resume() error { return ended(e.process.Resume()) }

// ended is an error as the built-in VMM would give it.
func ended(err error) error {
	if errors.Is(err, qemu.ErrGone) {
		return fmt.Errorf("%w: %w", vcpu.ErrEnded, err)
	}
	return err
}

func (e *emulated) done() <-chan struct{} { return e.process.Done() }

// exits: QEMU counts none.
func (e *emulated) exits() map[string]uint64 { return nil }

// reasons are QEMU's, as the built-in VMM would give them.
var reasons = map[qemu.Reason]vcpu.Reason{
	qemu.Stopped: vcpu.Stopped, qemu.PowerOff: vcpu.PowerOff, qemu.Reset: vcpu.Reset, qemu.Crashed: vcpu.Crashed,
	qemu.InternalError: vcpu.InternalError, qemu.Killed: vcpu.Killed, qemu.Died: vcpu.RunFailed,
}

func (e *emulated) end() vcpu.End {
	end := e.process.End()
	return vcpu.End{Reason: reasons[end.Reason], CPU: vcpu.NoCPU, Detail: end.Detail}
}

// stop: the devices' front ends go with QEMU.
func (e *emulated) stop() error {
	var errs []error
	if e.process != nil {
		errs = append(errs, e.process.Close())
	}
	for _, b := range e.backends {
		errs = append(errs, b.Close())
	}
	return errors.Join(errs...)
}

func (e *emulated) close() error {
	for _, d := range e.devices { // those that QEMU was never given
		_ = d.Front.Close()
	}
	for _, n := range e.nics {
		n.Close()
	}
	e.devices, e.nics = nil, nil
	var err error
	if e.terminal != nil {
		err = e.terminal.Close()
		e.terminal = nil
	}
	e.serving.Wait()
	return err
}
