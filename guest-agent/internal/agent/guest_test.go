package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/huskvm/husk/guest-agent/internal/boot"
	"github.com/huskvm/husk/guest-agent/internal/process"
	"github.com/huskvm/husk/guest-agent/internal/stage"
	"github.com/huskvm/husk/guest-agent/internal/stream"
	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The tests of this package run real containers. Without a VM, the agent is this test binary once more, as PID 1
// of a pid namespace of its own, and the host's end of its connections are unix sockets. That needs root. With one
// (vm_test.go) it is the real thing, in a guest of QEMU.

// streamSocket names the environment variable that makes this binary the agent.
const streamSocket = "HUSK_TEST_STREAMS"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == stage.Name {
		os.Exit(stage.Main())
	}
	if path := os.Getenv(streamSocket); path != "" {
		if err := serveGuest(path); err != nil {
			fmt.Fprintln(os.Stderr, "agent:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// drainTime is the guest's own, and short: a test waits for it.
const drainTime = 2 * time.Second

func serveGuest(streams string) error {
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	if _, err := os.Stat(unified); err == nil {
		if err := unix.Mount(unified, "/sys/fs/cgroup", "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	f := os.NewFile(3, "agent")
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return err
	}
	ctx := context.Background()
	runner := &process.Runner{
		DrainTime: drainTime,
		Reaper:    process.NewReaper(ctx),
		Dial: func(ctx context.Context) (stream.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, "unix", streams)
			if err != nil {
				return nil, err
			}
			return c.(*net.UnixConn), nil
		},
	}
	ready := func(context.Context) error { return nil }
	return Serve(ctx, conn, New(runner, &boot.Marks{}, ready, func() { os.Exit(0) }))
}

// unified is where version 2 is on a host that has both versions of cgroups.
const unified = "/sys/fs/cgroup/unified"

func cgroupRoot() string {
	if _, err := os.Stat(unified); err == nil {
		return unified
	}
	return "/sys/fs/cgroup"
}

// guest is a running agent, as the shim sees it.
type guest struct {
	t      *testing.T
	client agentv1.AgentService
	dir    string
	root   string // of a busybox system
	vm     bool

	mu      sync.Mutex
	streams map[string]chan stream.Conn
	n       int
}

func newGuest(t *testing.T) *guest {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("containers need root")
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("containers need a static busybox")
	}
	g := &guest{t: t, dir: t.TempDir(), streams: map[string]chan stream.Conn{}}
	g.root = filepath.Join(g.dir, "rootfs")
	g.makeRoot(busybox)
	var conn net.Conn
	if kernel := os.Getenv(vmKernel); kernel != "" {
		g.vm = true
		conn = g.startVM(kernel)
	} else {
		conn = g.startProcess()
	}
	client := ttrpc.NewClient(conn)
	g.client = agentv1.NewAgentClient(client)
	t.Cleanup(func() { client.Close() })
	return g
}

// startProcess makes this binary the agent.
func (g *guest) startProcess() net.Conn {
	t := g.t
	var fs unix.Statfs_t
	if err := unix.Statfs(cgroupRoot(), &fs); err != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
		t.Skip("containers need cgroup version 2")
	}
	socket := filepath.Join(g.dir, "streams")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	go g.accept(l)

	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "host"), os.NewFile(uintptr(fds[1]), "guest")
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), streamSocket+"="+socket)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Wait(); err != nil {
			t.Errorf("the agent: %v", err)
		}
		l.Close()
		left, _ := filepath.Glob(filepath.Join(cgroupRoot(), "husk/*/cgroup.procs"))
		for _, f := range left {
			_ = os.Remove(filepath.Dir(f))
		}
		_ = os.Remove(filepath.Join(cgroupRoot(), "husk"))
	})
	return conn
}

// inside is the path by which the agent knows a file of the test's directory.
func (g *guest) inside(path string) string {
	if !g.vm {
		return path
	}
	return boot.Shares + strings.TrimPrefix(path, g.dir)
}

// makeRoot lays out a small system.
func (g *guest) makeRoot(busybox string) {
	g.t.Helper()
	for _, d := range []string{"bin", "etc", "tmp", "proc", "dev", "sys", "home/joe"} {
		if err := os.MkdirAll(filepath.Join(g.root, d), 0o755); err != nil {
			g.t.Fatal(err)
		}
	}
	text, err := os.ReadFile(busybox)
	if err != nil {
		g.t.Fatal(err)
	}
	g.file("bin/busybox", string(text), 0o755)
	for applet := range strings.FieldsSeq(`sh ash cat echo true false sleep id env ls stat mount hostname kill head
		sha256sum dd mkdir touch ps stty tty test grep readlink pwd nslookup cut chown chmod umount ln find chrt ionice tr ifconfig md5sum trap umask od tail seq wc`) {
		if err := os.Symlink("busybox", filepath.Join(g.root, "bin", applet)); err != nil {
			g.t.Fatal(err)
		}
	}
	g.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\njoe:x:1000:1000::/home/joe:/bin/sh\n", 0o644)
	g.file("etc/group", "root:x:0:\njoe:x:1000:\nstaff:x:50:joe\n", 0o644)
	g.file("bin/data", "no program\n", 0o644)
	g.file("bin/garbage", "\x7fELF but not really", 0o755)
	g.file("bin/lost", "#!/no/such/interpreter\n", 0o755)
}

func (g *guest) file(name, text string, mode os.FileMode) {
	g.t.Helper()
	if err := os.WriteFile(filepath.Join(g.root, name), []byte(text), mode); err != nil {
		g.t.Fatal(err)
	}
}

func (g *guest) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		conn := c.(stream.Conn)
		head := make([]byte, 1)
		if _, err := io.ReadFull(conn, head); err != nil {
			conn.Close()
			continue
		}
		id := make([]byte, head[0])
		_, _ = io.ReadFull(conn, id)
		g.mu.Lock()
		ch, ok := g.streams[string(id)]
		g.mu.Unlock()
		if !ok {
			conn.Close()
			continue
		}
		_, _ = conn.Write([]byte{1})
		ch <- conn
	}
}

// stream registers a new stream.
func (g *guest) stream() (string, <-chan stream.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n++
	id := fmt.Sprintf("stream-%d", g.n)
	ch := make(chan stream.Conn, 1)
	g.streams[id] = ch
	return id, ch
}

// spec is what ctr gives a container, as far as it matters here.
func (g *guest) spec(args ...string) *specs.Spec {
	caps := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_MKNOD"}
	secure := []string{"nosuid", "noexec", "nodev"}
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: g.inside(g.root)},
		Process: &specs.Process{
			Args: args, Cwd: "/", NoNewPrivileges: true,
			Env:          []string{"PATH=/usr/bin:/bin"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}},
		},
		Hostname: "testhost",
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: secure},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: append(secure, "mode=1777", "size=65536k")},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: secure},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: append(secure, "ro")},
			{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.CgroupNamespace},
			},
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/sys/firmware", "/no/such/path"},
			ReadonlyPaths: []string{"/proc/sys", "/proc/bus", "/no/such/path"},
		},
	}
}

// running is a process whose streams are connected.
type running struct {
	g          *guest
	id, execID string
	pid        uint32
	stdin      stream.Conn
	stdout     stream.Conn
	stderr     stream.Conn // nil with a terminal
}

// create prepares a container.
func (g *guest) create(s *specs.Spec, change ...func(*agentv1.CreateContainerRequest)) (*running, error) {
	g.t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		g.t.Fatal(err)
	}
	g.mu.Lock()
	g.n++
	id := fmt.Sprintf("%s-%d", strings.ToLower(g.t.Name()), g.n)
	g.mu.Unlock()
	stdio, connected := g.stdio(s.Process.Terminal)
	req := &agentv1.CreateContainerRequest{Id: strings.ReplaceAll(id, "/", "-"), Spec: text, Stdio: stdio}
	for _, c := range change {
		c(req)
	}
	resp, err := g.client.CreateContainer(g.t.Context(), req)
	if err != nil {
		return nil, err
	}
	r := &running{g: g, id: req.Id, pid: resp.Pid}
	connected(r)
	return r, nil
}

// exec prepares a process in a container.
func (r *running) exec(p *specs.Process, change ...func(*agentv1.ExecProcessRequest)) (*running, error) {
	g := r.g
	g.t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		g.t.Fatal(err)
	}
	stdio, connected := g.stdio(p.Terminal)
	g.mu.Lock()
	g.n++
	execID := fmt.Sprintf("exec-%d", g.n)
	g.mu.Unlock()
	req := &agentv1.ExecProcessRequest{ContainerId: r.id, ExecId: execID, Process: text, Stdio: stdio}
	for _, c := range change {
		c(req)
	}
	resp, err := g.client.ExecProcess(g.t.Context(), req)
	if err != nil {
		return nil, err
	}
	e := &running{g: g, id: r.id, execID: execID, pid: resp.Pid}
	connected(e)
	return e, nil
}

// stdio registers streams; what it answers takes their connections, which are made when the call has returned.
func (g *guest) stdio(terminal bool) (*agentv1.Stdio, func(*running)) {
	s := &agentv1.Stdio{Terminal: terminal}
	var in, out, err <-chan stream.Conn
	s.Stdin, in = g.stream()
	s.Stdout, out = g.stream()
	if terminal {
		s.Width, s.Height = 123, 45
	} else {
		s.Stderr, err = g.stream()
	}
	return s, func(r *running) {
		r.stdin, r.stdout = <-in, <-out
		if err != nil {
			r.stderr = <-err
		}
	}
}

func (r *running) start() error {
	_, err := r.g.client.StartProcess(r.g.t.Context(), &agentv1.StartProcessRequest{ContainerId: r.id, ExecId: r.execID})
	return err
}

func (r *running) wait() *agentv1.Exit {
	r.g.t.Helper()
	ctx, cancel := context.WithTimeout(r.g.t.Context(), 40*time.Second)
	defer cancel()
	resp, err := r.g.client.WaitProcess(ctx, &agentv1.WaitProcessRequest{ContainerId: r.id, ExecId: r.execID})
	if err != nil {
		r.g.t.Fatalf("wait: %v", err)
	}
	if resp.GetExit() == nil || resp.GetExit().Status == nil {
		r.g.t.Fatalf("wait: no status: %v", resp)
	}
	return resp.GetExit()
}

func (r *running) signal(sig unix.Signal, all bool) error {
	_, err := r.g.client.SignalProcess(r.g.t.Context(), &agentv1.SignalProcessRequest{
		ContainerId: r.id, ExecId: r.execID, Signal: uint32(sig), All: all,
	})
	return err
}

func (r *running) delete() (*agentv1.Exit, error) {
	resp, err := r.g.client.DeleteProcess(r.g.t.Context(), &agentv1.DeleteProcessRequest{ContainerId: r.id, ExecId: r.execID})
	return resp.GetExit(), err
}

// result is what a process left.
type result struct {
	code           uint32
	stdout, stderr string
}

// finish starts a prepared process without input, and takes all it has to give.
func (r *running) finish() result {
	r.g.t.Helper()
	_ = r.stdin.CloseWrite()
	if err := r.start(); err != nil {
		r.g.t.Fatalf("start: %v", err)
	}
	out := r.outcome()
	if _, err := r.delete(); err != nil {
		r.g.t.Fatalf("delete: %v", err)
	}
	return out
}

func (r *running) outcome() result {
	r.g.t.Helper()
	read := func(c stream.Conn) <-chan string {
		done := make(chan string, 1)
		go func() {
			if c == nil {
				done <- ""
				return
			}
			text, _ := io.ReadAll(c)
			done <- string(text)
		}()
		return done
	}
	stdout, stderr := read(r.stdout), read(r.stderr)
	code := r.wait().GetStatus()
	return result{code, <-stdout, <-stderr}
}

// run makes a container of the specification and takes its result.
func (g *guest) run(s *specs.Spec) result {
	g.t.Helper()
	c, err := g.create(s)
	if err != nil {
		g.t.Fatalf("create: %v", err)
	}
	return c.finish()
}

// line reads from c up to a line that ends with want.
func (r *running) line(want string) {
	r.g.t.Helper()
	_ = r.stdout.SetDeadline(time.Now().Add(20 * time.Second))
	var got []byte
	for b := make([]byte, 1); !strings.HasSuffix(string(got), want); {
		if _, err := io.ReadFull(r.stdout, b); err != nil {
			r.g.t.Fatalf("waiting for %q, got %q: %v", want, got, err)
		}
		got = append(got, b...)
	}
	_ = r.stdout.SetDeadline(time.Time{})
}

// readLine reads one line.
func (r *running) readLine() string {
	r.g.t.Helper()
	_ = r.stdout.SetDeadline(time.Now().Add(20 * time.Second))
	defer func() { _ = r.stdout.SetDeadline(time.Time{}) }()
	var got []byte
	for b := make([]byte, 1); ; {
		if _, err := io.ReadFull(r.stdout, b); err != nil {
			r.g.t.Fatalf("waiting for a line, got %q: %v", got, err)
		}
		if got = append(got, b...); b[0] == '\n' {
			return string(got)
		}
	}
}

func mustFail(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", want)
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("got error %q, want one with %q", err, want)
	}
}
