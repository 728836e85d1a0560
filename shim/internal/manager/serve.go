package manager

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/huskvm/husk/shim/internal/config"
	"github.com/huskvm/husk/shim/internal/events"
	"github.com/huskvm/husk/shim/internal/mounts"
	"github.com/huskvm/husk/shim/internal/rundir"
	"github.com/huskvm/husk/shim/internal/sandbox"
	"github.com/huskvm/husk/shim/internal/task"
)

// serveAction is the daemon's; nobody but start gives it.
const serveAction = "serve"

const (
	// firstTime is how long a shim waits for its first container, and idleTime how long it stays without one
	// afterwards: its engine may have died before or while creating one, and then does not shut it down.
	firstTime = 30 * time.Second
	idleTime  = 5 * time.Second
	// drainTime is how long a shim that ends waits for its last answers and events to be taken.
	drainTime = 2 * time.Second
)

// serve is the daemon: it serves the sandbox until that is shut down, idle for too long, or it gets a signal.
func (s *Shim) serve() error {
	debug.SetGCPercent(50)
	// Inherited so far; of what this process starts nothing may keep them.
	for fd := socketFD; fd <= engineFD; fd++ {
		unix.CloseOnExec(fd)
	}
	lock := os.NewFile(lockFD, "lock")
	defer lock.Close()

	s.openLog()
	d, err := s.settle()
	sayReady(err)
	if err != nil {
		return err
	}
	return d.run()
}

// settle makes this process the sandbox's.
func (s *Shim) settle() (*daemon, error) {
	begun, _ := strconv.ParseUint(os.Getenv(startMark), 10, 64)
	// Shared mounts of the host still arrive here, none of ours reaches the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return nil, fmt.Errorf("make the shim's mounts its own: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return nil, fmt.Errorf("leave the bundle: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the shim's binary: %w", err)
	}
	listener, err := net.FileListener(os.NewFile(socketFD, "socket"))
	if err != nil {
		return nil, fmt.Errorf("take over the shim's socket: %w", err)
	}
	d := &daemon{
		listener:  listener,
		signals:   make(chan os.Signal, 4),
		publisher: events.New(s.events, s.namespace),
		done:      make(chan struct{}),
	}
	signal.Notify(d.signals, unix.SIGTERM, unix.SIGINT)
	signal.Ignore(unix.SIGPIPE, unix.SIGHUP)
	d.sandbox = sandbox.New(sandbox.Params{
		Dir: s.dir(s.id), Namespace: s.namespace, ID: s.id, Unowned: s.address == "",
		Sink:      d.publisher,
		Config:    config.Source{Executable: self, Getenv: os.Getenv},
		Begun:     begun,
		Engine:    mounts.Engine{Namespace: os.NewFile(engineFD, "engine's mounts")},
		FirstTime: firstTime, IdleTime: idleTime, Idle: d.idle,
	})
	return d, nil
}

// openLog sends the log to the engine, which reads it from a fifo in the bundle. It must never hold the shim
// up: when the engine does not read, lines are dropped.
func (s *Shim) openLog() {
	_ = log.SetFormat(log.TextFormat)
	if s.debug {
		_ = log.SetLevel("debug")
	}
	// Opened for reading, too, so that it opens at once and outlives the engine.
	fd, err := unix.Open("log", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return // CRI-O before it has made the fifo, or a test: there is nobody to tell
	}
	_ = unix.Dup3(fd, int(os.Stderr.Fd()), 0) // for a panic's trace
	log.L.Logger.SetOutput(fifoWriter(fd))
	log.L = log.L.WithField("runtime", Name)
}

type fifoWriter int

func (w fifoWriter) Write(line []byte) (int, error) {
	for {
		_, err := unix.Write(int(w), line)
		if !errors.Is(err, unix.EINTR) {
			return len(line), nil
		}
	}
}

// daemon serves one sandbox.
type daemon struct {
	listener  net.Listener
	signals   chan os.Signal
	sandbox   *sandbox.Sandbox
	publisher *events.Publisher

	once sync.Once
	err  error
	done chan struct{} // closed when the sandbox is gone
}

// shutdown takes the sandbox away; when it returns nothing of it is left but this process.
func (d *daemon) shutdown() error {
	d.once.Do(func() {
		d.err = d.sandbox.Close()
		close(d.done)
	})
	return d.err
}

// loadOptions reads the runtime's options that start was given; nil when there are none.
func loadOptions(dir rundir.Dir) *anypb.Any {
	data, err := os.ReadFile(dir.Join(rundir.Options))
	options := new(anypb.Any)
	if err != nil || proto.Unmarshal(data, options) != nil {
		return nil
	}
	return options
}

func (d *daemon) idle() {
	if d.sandbox.Containers() == 0 {
		log.L.Info("no container for too long")
		_ = d.shutdown()
	}
}

func (d *daemon) run() error {
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser()))
	if err != nil {
		return fmt.Errorf("create server: %w", err)
	}
	service := task.New(d.sandbox, d.shutdown)
	service.Register(server)
	service.RegisterPods(server, d.sandbox.Namespace, loadOptions(d.sandbox.Dir))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, d.listener) }()

	select {
	case <-d.done:
	case sig := <-d.signals:
		log.L.WithField("signal", sig.(syscall.Signal)).Warn("ending with everything in the sandbox")
		_ = d.shutdown()
	case err := <-served:
		log.L.WithError(err).Error("serve the task API")
		_ = d.shutdown()
	}
	ctx, stop := context.WithTimeout(ctx, drainTime)
	defer stop()
	d.publisher.Close(ctx)
	// The connection of the call that shut down is idle once its answer is written.
	_ = server.Shutdown(ctx)
	return d.err
}
