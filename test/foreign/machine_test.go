package foreign

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	"github.com/huskvm/husk/vmm/machine"
	"github.com/huskvm/husk/vmm/marks"
	"github.com/huskvm/husk/vmm/vcpu"
	"github.com/huskvm/husk/vmm/virtio/vsock"
)

// patience is how long a guest may take for anything; nothing waits so long unless it fails.
const patience = 3 * time.Minute

// shareName is the root's, below the directory where agent.proto puts shares.
const (
	shareName = "root"
	guestRoot = "/run/husk/shares/" + shareName
)

// guest is a machine with its agent, as the shim sees it.
type guest struct {
	t       *testing.T
	machine *machine.Machine
	agent   agentv1.AgentService
	conn    *ttrpc.Client
	streams *streams
}

// boot starts a machine and takes the connection that its agent makes.
func boot(t *testing.T, a architecture, p parts) *guest {
	t.Helper()
	dir := t.TempDir()
	host := filepath.Join(dir, vsock.SocketName)
	agentPort := listen(t, host+"_1024")
	g := &guest{t: t, streams: accept(listen(t, host+"_1025"))}

	list := &marks.List{}
	cfg := machine.Config{
		QEMU:  &machine.QEMU{Binary: p.qemu, Arch: a.goarch},
		VCPUs: 1, Memory: 256 << 20,
		Kernel: open(t, p.kernel, os.O_RDONLY), Initramfs: open(t, p.initramfs, os.O_RDONLY),
		Cmdline: cmp.Or(os.Getenv("HUSK_TEST_CMDLINE"), "quiet"),
		Vsock:   &machine.Vsock{GuestCID: 3, Host: vsock.UnixHost(host)},
		Shares:  []machine.Share{{Name: shareName, File: open(t, p.root, unix.O_PATH)}},
		Log:     slog.New(slog.NewTextHandler(t.Output(), nil)), Marks: list,
	}
	began := time.Now()
	var err error
	g.machine, err = machine.New(cfg)
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("console:\n%s", g.machine.ConsoleTail())
		}
		g.close()
	})
	started := time.Now()
	must(t, g.machine.Start())
	conn := g.dialled(agentPort)
	t.Logf("QEMU started in %v; the agent has dialled %v after the guest's first instruction",
		started.Sub(began).Round(time.Millisecond), time.Since(started).Round(time.Millisecond))
	g.conn = ttrpc.NewClient(conn)
	g.agent = agentv1.NewAgentClient(g.conn)
	return g
}

// dialled takes the one connection that a listener is for.
func (g *guest) dialled(l *net.UnixListener) net.Conn {
	g.t.Helper()
	defer l.Close()
	must(g.t, l.SetDeadline(time.Now().Add(patience)))
	dialled := make(chan struct{})
	defer close(dialled)
	go func() { // a guest that dies at boot does not dial
		select {
		case <-g.machine.Done():
			_ = l.Close()
		case <-dialled:
		}
	}()
	c, err := l.Accept()
	if err != nil {
		g.t.Fatalf("the guest does not dial: %v", err)
	}
	return c
}

// close ends what still runs, and waits for all of it.
func (g *guest) close() {
	if g.conn != nil {
		_ = g.conn.Close()
	}
	if err := g.machine.Close(); err != nil {
		g.t.Error(err)
	}
	g.streams.close()
}

// ended waits for the machine's end.
func (g *guest) ended() vcpu.End {
	g.t.Helper()
	select {
	case <-g.machine.Done():
	case <-time.After(patience):
		g.t.Fatal("the guest does not end")
	}
	return g.machine.End()
}

func listen(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func open(t *testing.T, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0)
	must(t, err)
	return f
}

// streams are the connections of processes' stdio, by the id that each begins with.
type streams struct {
	listener *net.UnixListener
	running  sync.WaitGroup

	mu       sync.Mutex
	names    int // given so far
	expected map[string]chan net.Conn
}

func accept(l *net.UnixListener) *streams {
	s := &streams{listener: l, expected: map[string]chan net.Conn{}}
	s.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if err := s.greet(c); err != nil {
				_ = c.Close()
			}
		}
	})
	return s
}

// greet reads a stream's id and answers it.
func (s *streams) greet(c net.Conn) error {
	head := make([]byte, 1)
	if _, err := io.ReadFull(c, head); err != nil {
		return err
	}
	id := make([]byte, head[0])
	if _, err := io.ReadFull(c, id); err != nil {
		return err
	}
	s.mu.Lock()
	taker := s.expected[string(id)]
	delete(s.expected, string(id))
	s.mu.Unlock()
	if taker == nil {
		return errors.New("nobody expects it")
	}
	if _, err := c.Write([]byte{1}); err != nil {
		return err
	}
	taker <- c
	return nil
}

// name is a new one, for a container, a process or a stream.
func (s *streams) name(of string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names++
	return fmt.Sprint(of, s.names)
}

// expect makes an id known. Its connection arrives on the channel.
func (s *streams) expect(id string) <-chan net.Conn {
	c := make(chan net.Conn, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expected[id] = c
	return c
}

func (s *streams) close() {
	_ = s.listener.Close()
	s.running.Wait()
}
