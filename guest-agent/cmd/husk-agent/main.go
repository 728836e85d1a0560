// Command husk-agent is /init of a husk guest: it boots it, dials the host, and serves it until the end. Started
// again by itself, with stage.Name as its argument, it is the beginning of a container's process; with
// process.PauseName, what holds the namespaces of a pod.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"time"

	"github.com/huskvm/husk/guest-agent/internal/agent"
	"github.com/huskvm/husk/guest-agent/internal/boot"
	"github.com/huskvm/husk/guest-agent/internal/netcfg"
	"github.com/huskvm/husk/guest-agent/internal/process"
	"github.com/huskvm/husk/guest-agent/internal/stage"
	"github.com/huskvm/husk/guest-agent/internal/stream"
	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"
)

// Ports of the host, as agent.proto has them.
const (
	portAgent  = 1024
	portStream = 1025
)

// drainTime is how long an exit waits for output that a child left behind may still write.
const drainTime = 30 * time.Second

func main() {
	if len(os.Args) == 2 && os.Args[1] == stage.Name {
		os.Exit(stage.Main())
	}
	if len(os.Args) == 2 && os.Args[1] == process.PauseName {
		process.Pause()
		return
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "husk-agent: is the init of a husk guest, and does nothing elsewhere")
		os.Exit(2)
	}
	if err := run(); err != nil {
		slog.Error("agent", "error", err)
	}
	boot.Off()
}

// withstandSignals makes good for the kernel's protection of PID 1, which ends where a handler is: Go has one for each of
// these, and it ends the program. They are not ignored, which what is executed would inherit. A fault of the agent's own
// still ends it.
func withstandSignals() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT,
		unix.SIGBUS, unix.SIGFPE, unix.SIGSEGV, unix.SIGSTKFLT, unix.SIGSYS)
	go func() {
		for range signals {
		}
	}()
}

func run() error {
	marks := &boot.Marks{}
	marks.Add("init")
	withstandSignals()
	debug.SetGCPercent(50)
	if err := boot.Root(); err != nil {
		return err
	}
	boot.LogToKernel()
	marks.Add("mounts")

	// The host answers both the mount and the dial; neither waits for the other.
	shares := sync.OnceValue(boot.MountShares)
	go shares()
	if err := errors.Join(boot.Limits(), boot.LetSleep()); err != nil {
		return err
	}
	if err := netcfg.LoopbackUp(); err != nil {
		return err
	}
	conn, err := vsock.Dial(vsock.Host, portAgent, nil)
	if err != nil {
		return fmt.Errorf("dial the host: %w", err)
	}
	marks.Add("connected")

	ctx := context.Background()
	runner := &process.Runner{
		DrainTime: drainTime,
		Reaper:    process.NewReaper(ctx),
		Dial: func(ctx context.Context) (stream.Conn, error) {
			return vsock.DialContext(ctx, vsock.Host, portStream, nil)
		},
	}
	ready := func(context.Context) error {
		err := shares()
		if errors.Is(err, boot.ErrNoShares) {
			slog.Warn("no shares", "error", err)
			return nil
		}
		return err
	}
	return agent.Serve(ctx, conn, agent.New(runner, marks, ready, boot.Off))
}
