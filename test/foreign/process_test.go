package foreign

import (
	"context"
	"encoding/json"
	"io"
	"net"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
)

// outcome is what a process left.
type outcome struct {
	status         uint32
	stdout, stderr string
}

// process is one that is created, with its streams connected.
type process struct {
	g              *guest
	container      string
	exec           string // empty for the container's init
	stdout, stderr net.Conn
}

// spec is a container that runs the witness.
func spec(args ...string) *specs.Spec {
	secure := []string{"nosuid", "noexec", "nodev"}
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: guestRoot},
		Process: task(args...),
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: secure},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=65536k"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: append(secure, "ro")},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.MountNamespace}, {Type: specs.CgroupNamespace},
			},
			// Compiled for the guest's architecture, and so a test of its numbers as well.
			Seccomp: &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow,
				Syscalls:      []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno}},
			},
		},
	}
}

func task(args ...string) *specs.Process {
	return &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}, NoNewPrivileges: true}
}

// create prepares a container.
func (g *guest) create(s *specs.Spec) *process {
	g.t.Helper()
	p := &process{g: g, container: g.streams.name("container")}
	p.connect(func(stdio *agentv1.Stdio) error {
		_, err := g.agent.CreateContainer(g.t.Context(), &agentv1.CreateContainerRequest{
			Id: p.container, Spec: encode(g, s), Stdio: stdio,
		})
		return err
	})
	return p
}

// execute prepares a further process in a container.
func (g *guest) execute(container string, args ...string) *process {
	g.t.Helper()
	p := &process{g: g, container: container, exec: g.streams.name("exec")}
	p.connect(func(stdio *agentv1.Stdio) error {
		_, err := g.agent.ExecProcess(g.t.Context(), &agentv1.ExecProcessRequest{
			ContainerId: p.container, ExecId: p.exec, Process: encode(g, task(args...)), Stdio: stdio,
		})
		return err
	})
	return p
}

// connect names the streams, has the process made, and takes their connections.
func (p *process) connect(create func(*agentv1.Stdio) error) {
	g := p.g
	g.t.Helper()
	stdio := &agentv1.Stdio{Stdout: g.streams.name("out"), Stderr: g.streams.name("err")}
	stdout, stderr := g.streams.expect(stdio.Stdout), g.streams.expect(stdio.Stderr)
	must(g.t, create(stdio))
	p.stdout, p.stderr = <-stdout, <-stderr
}

// finish starts the process and takes its outcome.
func (p *process) finish() outcome {
	p.g.t.Helper()
	p.start()
	return p.outcome()
}

func (p *process) start() {
	p.g.t.Helper()
	_, err := p.g.agent.StartProcess(p.g.t.Context(), &agentv1.StartProcessRequest{ContainerId: p.container, ExecId: p.exec})
	must(p.g.t, err)
}

// outcome takes all that the process says, and waits for it.
func (p *process) outcome() outcome {
	p.g.t.Helper()
	ctx, cancel := context.WithTimeout(p.g.t.Context(), patience)
	defer cancel()
	stdout, stderr := readAll(p.stdout), readAll(p.stderr)
	waited, err := p.g.agent.WaitProcess(ctx, &agentv1.WaitProcessRequest{ContainerId: p.container, ExecId: p.exec})
	must(p.g.t, err)
	exit := waited.GetExit()
	if exit == nil || exit.Status == nil || exit.GetOutputCut() {
		p.g.t.Fatalf("the exit is %v", exit)
	}
	return outcome{exit.GetStatus(), <-stdout, <-stderr}
}

// close lets go of a process that nobody listens to.
func (p *process) close() {
	_ = p.stdout.Close()
	_ = p.stderr.Close()
}

// delete removes what has ended.
func (p *process) delete() {
	p.g.t.Helper()
	_, err := p.g.agent.DeleteProcess(p.g.t.Context(), &agentv1.DeleteProcessRequest{ContainerId: p.container, ExecId: p.exec})
	must(p.g.t, err)
}

func readAll(c net.Conn) <-chan string {
	done := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(c)
		_ = c.Close()
		done <- string(text)
	}()
	return done
}

func encode(g *guest, v any) []byte {
	text, err := json.Marshal(v)
	must(g.t, err)
	return text
}
