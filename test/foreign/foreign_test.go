package foreign

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	"github.com/huskvm/husk/vmm/vcpu"
)

func TestContainersRunInMachinesOfOtherArchitectures(t *testing.T) {
	for _, a := range architectures {
		t.Run(a.goarch, func(t *testing.T) {
			p := find(t, a)
			before := descriptors(t)
			g := boot(t, a, p)
			g.handshake()
			t.Run("exit status and output are whole", func(t *testing.T) { g.with(t).reports(a) })
			t.Run("exec", func(t *testing.T) { g.with(t).executes() })
			t.Run("a missing executable is 127", func(t *testing.T) { g.with(t).missesAnExecutable() })
			t.Run("device rules hold", func(t *testing.T) { g.with(t).keepsToDevices() })
			t.Run("the memory limit holds", func(t *testing.T) { g.with(t).keepsToMemory() })
			g.shutDown()
			g.close()
			nothingIsLeft(t, before)
		})
	}
}

func TestAPanicEndsTheMachine(t *testing.T) {
	for _, a := range architectures {
		t.Run(a.goarch, func(t *testing.T) {
			p := find(t, a)
			before := descriptors(t)
			g := boot(t, a, p)
			g.handshake()
			c := g.create(spec("witness", "crash"))
			// Both calls end with the connection, at the latest.
			_, _ = g.agent.StartProcess(t.Context(), &agentv1.StartProcessRequest{ContainerId: c.container})
			if r, err := g.agent.WaitProcess(t.Context(), &agentv1.WaitProcessRequest{ContainerId: c.container}); err == nil {
				t.Fatalf("the guest goes on: %v", r)
			}
			end := g.ended()
			if end.Reason != vcpu.Reset && end.Reason != vcpu.Crashed {
				t.Errorf("the machine was %v", end)
			}
			c.close()
			g.close()
			if tail := g.machine.ConsoleTail(); !bytes.Contains(tail, []byte("Kernel panic - not syncing")) {
				t.Errorf("the console's tail has no panic: %s", tail)
			}
			nothingIsLeft(t, before)
		})
	}
}

// with is the guest in a subtest.
func (g *guest) with(t *testing.T) *guest {
	c := *g
	c.t = t
	return &c
}

// handshake logs the guest's timeline, which begins with its kernel.
func (g *guest) handshake() {
	g.t.Helper()
	r, err := g.agent.Handshake(g.t.Context(), &agentv1.HandshakeRequest{Version: 1, Now: time.Now().UnixNano()})
	must(g.t, err)
	text := "Linux " + r.GetKernel()
	for _, m := range r.GetMarks() {
		text += fmt.Sprintf(", %s %v", m.GetName(), time.Duration(m.GetNanoseconds()).Round(time.Millisecond))
	}
	g.t.Log(text)
}

func (g *guest) reports(a architecture) {
	p := g.create(spec("witness", "report"))
	got := p.finish()
	p.delete()
	var want strings.Builder
	fmt.Fprintln(&want, a.machine, a.order)
	for i := range 20000 {
		fmt.Fprintln(&want, "line", i)
	}
	if got.status != 42 || got.stderr != "" {
		g.t.Errorf("exit status %d, stderr %q", got.status, got.stderr)
	}
	if got.stdout != want.String() {
		g.t.Errorf("of %d bytes of output %d arrived, or others: they begin with %.100q", want.Len(), len(got.stdout), got.stdout)
	}
}

func (g *guest) executes() {
	p := g.create(spec("witness", "wait"))
	p.start()
	for _, code := range []uint32{7, 0} {
		e := g.execute(p.container, "witness", "exit", fmt.Sprint(code))
		if d := cmp.Diff(outcome{status: code}, e.finish(), cmp.AllowUnexported(outcome{})); d != "" {
			g.t.Error(d)
		}
		e.delete()
	}
	_, err := g.agent.SignalProcess(g.t.Context(), &agentv1.SignalProcessRequest{ContainerId: p.container, Signal: uint32(unix.SIGKILL)})
	must(g.t, err)
	if got := p.outcome(); got.status != 128+9 {
		g.t.Errorf("the killed container left %+v", got)
	}
	p.delete()
}

func (g *guest) missesAnExecutable() {
	p := g.create(spec("nonesuch"))
	want := outcome{status: 127, stderr: "exec: \"nonesuch\": executable file not found in $PATH\n"}
	if d := cmp.Diff(want, p.finish(), cmp.AllowUnexported(outcome{})); d != "" {
		g.t.Error(d)
	}
	p.delete()
}

// keepsToDevices holds the rules, which are a BPF program in the guest, against a container that has none.
func (g *guest) keepsToDevices() {
	opens := []string{"r=/dev/fuse", "rw=/dev/fuse", "w=/dev/kmsg", "r=/dev/zero"}
	for _, c := range []struct {
		name  string
		rules []specs.LinuxDeviceCgroup
		want  []string
	}{
		{"without rules", nil, []string{"EPERM", "EPERM", "EPERM", "ok"}}, // zero is every container's
		{"with a rule for all", []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}, []string{"ok", "ok", "ok", "ok"}},
		{"with rules", []specs.LinuxDeviceCgroup{
			{Allow: false, Access: "rwm"},
			{Allow: true, Type: "c", Major: new(int64(10)), Minor: new(int64(229)), Access: "r"},
		}, []string{"ok", "EPERM", "EPERM", "ok"}},
	} {
		s := spec(append([]string{"witness", "open"}, opens...)...)
		s.Linux.Devices = []specs.LinuxDevice{
			{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229},
			{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11},
		}
		s.Linux.Resources = &specs.LinuxResources{Devices: c.rules}
		var want outcome
		for i, o := range opens {
			want.stdout += o + " " + c.want[i] + "\n"
		}
		p := g.create(s)
		if d := cmp.Diff(want, p.finish(), cmp.AllowUnexported(outcome{})); d != "" {
			g.t.Errorf("%s: %s", c.name, d)
		}
		p.delete()
	}
}

func (g *guest) keepsToMemory() {
	const limit = 32 << 20
	s := spec("witness", "eat")
	s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(limit)), Swap: new(int64(limit))}}
	p := g.create(s)
	if got := p.finish(); got.status != 137 {
		g.t.Errorf("got %+v", got)
	}
	stats, err := g.agent.Stats(g.t.Context(), &agentv1.StatsRequest{ContainerId: p.container})
	must(g.t, err)
	if m := stats.GetMemory(); m.GetLimit() != limit || m.GetEvents()["oom_kill"] == 0 {
		g.t.Errorf("a limit of %d, events %v", m.GetLimit(), m.GetEvents())
	}
	p.delete()
}

// shutDown ends the machine by the agent's means.
func (g *guest) shutDown() {
	g.t.Helper()
	_, _ = g.agent.Shutdown(g.t.Context(), &agentv1.ShutdownRequest{}) // its answer may be lost with the connection
	switch end := g.ended(); end.Reason {
	case vcpu.Reset, vcpu.PowerOff:
		g.t.Logf("the machine was %v", end)
	default:
		g.t.Errorf("the machine was %v", end)
	}
}

// descriptors are this process's open files.
func descriptors(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	var open []string
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil { // not the directory itself any more
			open = append(open, e.Name()+" "+to)
		}
	}
	return open
}

// nothingIsLeft says whether there is a child process, or a file open that was not before.
func nothingIsLeft(t *testing.T, before []string) {
	t.Helper()
	if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != unix.ECHILD {
		t.Errorf("a child process is left (%d, %v)", pid, err)
	}
	if d := cmp.Diff(before, descriptors(t)); d != "" {
		t.Errorf("open files: %s", d)
	}
}
