package agent

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// sleeper is a started container that says when it runs, and ends at SIGTERM with 9.
func (g *guest) sleeper() *running {
	g.t.Helper()
	c, err := g.create(g.spec("sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"))
	if err != nil {
		g.t.Fatal(err)
	}
	if err := c.start(); err != nil {
		g.t.Fatal(err)
	}
	c.line("ready\n")
	return c
}

func (r *running) cgroup() string { return filepath.Join(cgroupRoot(), "husk", r.id) }

// freeze stops a container, or lets it go on, behind the agent's back.
func (r *running) freeze(stop bool) {
	r.g.t.Helper()
	how := "0"
	if stop {
		how = "1"
	}
	if err := os.WriteFile(filepath.Join(r.cgroup(), "cgroup.freeze"), []byte(how), 0); err != nil {
		r.g.t.Fatal(err)
	}
}

func (r *running) mustExec(args ...string) *running {
	r.g.t.Helper()
	p := r.g.spec(args...).Process
	e, err := r.exec(p)
	if err != nil {
		r.g.t.Fatalf("exec %q: %v", args, err)
	}
	return e
}

// end kills a container and removes it.
func (r *running) end() {
	r.g.t.Helper()
	if err := r.signal(unix.SIGKILL, true); err != nil {
		r.g.t.Errorf("kill: %v", err)
	}
	r.wait()
	if _, err := r.delete(); err != nil {
		r.g.t.Errorf("delete: %v", err)
	}
	r.g.nothingLeft()
}

func TestSignalsReachTheInit(t *testing.T) {
	g := newGuest(t)
	for sig, want := range map[unix.Signal]uint32{unix.SIGTERM: 9, unix.SIGKILL: 137} {
		c := g.sleeper()
		if err := c.signal(sig, false); err != nil {
			t.Fatal(err)
		}
		if got := c.wait().GetStatus(); got != want {
			t.Errorf("signal %d: status %d, want %d", sig, got, want)
		}
		if got := c.wait().GetStatus(); got != want {
			t.Errorf("a second wait: status %d, want %d", got, want)
		}
		if err := c.signal(sig, false); status.Code(err) != codes.NotFound {
			t.Errorf("signal after the end: %v", err)
		}
		if _, err := c.delete(); err != nil {
			t.Error(err)
		}
		g.nothingLeft()
	}
}

func TestRealTimeSignalsReachTheInit(t *testing.T) {
	g := newGuest(t)
	c, err := g.create(g.spec("sh", "-c", "trap 'exit 5' 37; echo ready; while :; do sleep 0.05; done"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	c.line("ready\n")
	if err := c.signal(37, false); err != nil {
		t.Fatal(err)
	}
	if got := c.wait().GetStatus(); got != 5 {
		t.Errorf("status %d", got)
	}
	if _, err := c.delete(); err != nil {
		t.Error(err)
	}
}

func TestAPreparedContainerCanBeKilledOrDeleted(t *testing.T) {
	g := newGuest(t)
	c, err := g.create(g.spec("true"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.signal(unix.SIGWINCH, false); err != nil {
		t.Error(err)
	}
	if err := c.signal(unix.SIGTERM, false); err != nil {
		t.Error(err)
	}
	if got := c.wait().GetStatus(); got != 143 {
		t.Errorf("status %d", got)
	}
	if err := c.start(); err == nil {
		t.Error("what was killed has started")
	}
	if exit, err := c.delete(); err != nil || exit != nil {
		t.Errorf("delete: %v, %v", exit, err)
	}
	if c, err = g.create(g.spec("true")); err != nil {
		t.Fatal(err)
	}
	if exit, err := c.delete(); err != nil || exit != nil {
		t.Errorf("delete: %v, %v", exit, err)
	}
	g.nothingLeft()
}

func TestExecHasItsOwnStatusAndJoinsTheContainer(t *testing.T) {
	g := newGuest(t)
	c := g.sleeper()
	for _, x := range []struct {
		args           []string
		code           uint32
		stdout, stderr string
	}{
		{[]string{"sh", "-c", "exit 17"}, 17, "", ""},
		{[]string{"sh", "-c", "kill -KILL $$"}, 137, "", ""},
		{[]string{"sh", "-c", "hostname; grep ^0: /proc/self/cgroup; readlink /proc/1/exe; echo e >&2"}, 0, "testhost\n0::/\n/bin/busybox\n", "e\n"},
		{[]string{"nosuch"}, 127, "", `exec: "nosuch": executable file not found in $PATH` + "\n"},
		{[]string{"/bin/data"}, 126, "", `exec: "/bin/data": permission denied` + "\n"},
		{[]string{"sh", "-c", "for n in uts ipc net mnt pid cgroup; do test $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) || echo $n; done"}, 0, "", ""},
		{[]string{"sh", "-c", "ls /proc/self/fd | wc -l"}, 0, "4\n", ""},
	} {
		if got := c.mustExec(x.args...).finish(); got != (result{x.code, x.stdout, x.stderr}) {
			t.Errorf("%q: got %+v", x.args, got)
		}
	}
	p := g.spec("sh", "-c", "id -u; pwd; grep CapEff /proc/self/status").Process
	p.User, p.Cwd = specs.User{UID: 1000, GID: 1000}, "/tmp"
	e, err := c.exec(p)
	if err != nil {
		t.Fatal(err)
	}
	if got := e.finish(); got.stdout != "1000\n/tmp\nCapEff:\t0000000000000000\n" {
		t.Errorf("as a user: got %+v", got)
	}
	p = g.spec("sh", "-c", "stty size; tty").Process
	p.Terminal = true
	if e, err = c.exec(p); err != nil {
		t.Fatal(err)
	}
	if got := e.finish(); got.stdout != "45 123\r\n/dev/pts/0\r\n" {
		t.Errorf("with a terminal: got %+v", got)
	}
	p = g.spec("true").Process
	p.Cwd = "/no/such"
	_, err = c.exec(p)
	mustFail(t, err, "/no/such")
	_, err = c.exec(g.spec("nosuch").Process, func(r *agentv1.ExecProcessRequest) { r.MissingExecutableIsError = true })
	mustFail(t, err, `exec: "nosuch": executable file not found in $PATH`)
	c.end()
}

func TestExecOutputIsCutWhenAChildKeepsItOpen(t *testing.T) {
	g := newGuest(t)
	c := g.sleeper()
	e := c.mustExec("sh", "-c", "sleep 100 & echo done")
	if err := e.start(); err != nil {
		t.Fatal(err)
	}
	e.line("done\n")
	exit := e.wait()
	if exit.GetStatus() != 0 || !exit.GetOutputCut() {
		t.Errorf("got %v", exit)
	}
	if _, err := e.delete(); err != nil {
		t.Error(err)
	}
	c.end()
}

func TestTheEndOfTheInitEndsTheExecs(t *testing.T) {
	g := newGuest(t)
	for _, shared := range []bool{false, true} {
		s := g.spec("sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done")
		if shared {
			s.Linux.Namespaces = s.Linux.Namespaces[1:] // without a pid namespace
		}
		c, err := g.create(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.start(); err != nil {
			t.Fatal(err)
		}
		c.line("ready\n")
		e := c.mustExec("sleep", "100")
		if err := e.start(); err != nil {
			t.Fatal(err)
		}
		if err := c.signal(unix.SIGTERM, false); err != nil {
			t.Fatal(err)
		}
		if got := e.wait().GetStatus(); got != 137 {
			t.Errorf("shared pid namespace %v: exec's status %d", shared, got)
		}
		if got := c.wait().GetStatus(); got != 9 {
			t.Errorf("shared pid namespace %v: init's status %d", shared, got)
		}
		if _, err := c.delete(); err != nil {
			t.Error(err)
		}
		g.nothingLeft()
	}
}

func TestPauseStandsStillUntilResume(t *testing.T) {
	g := newGuest(t)
	c, err := g.create(g.spec("cat"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	if _, err := g.client.Pause(t.Context(), &agentv1.PauseRequest{ContainerId: c.id}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.stdin.Write([]byte("x\n")); err != nil {
		t.Fatal(err)
	}
	_ = c.stdout.SetDeadline(time.Now().Add(200 * time.Millisecond))
	if n, err := c.stdout.Read(make([]byte, 1)); err == nil {
		t.Errorf("a paused container wrote %d bytes", n)
	} else if ne, ok := err.(net.Error); !ok || !ne.Timeout() {
		t.Error(err)
	}
	_, err = c.exec(g.spec("true").Process)
	mustFail(t, err, "paused")
	if _, err := g.client.Resume(t.Context(), &agentv1.ResumeRequest{ContainerId: c.id}); err != nil {
		t.Fatal(err)
	}
	_ = c.stdout.SetDeadline(time.Time{})
	c.line("x\n")
	if _, err := g.client.Pause(t.Context(), &agentv1.PauseRequest{ContainerId: c.id}); err != nil {
		t.Fatal(err)
	}
	c.end() // a paused container can be killed
}

func TestPidsNameTheProcessesAskedFor(t *testing.T) {
	g := newGuest(t)
	c := g.sleeper()
	e := c.mustExec("sleep", "100")
	if err := e.start(); err != nil {
		t.Fatal(err)
	}
	resp, err := g.client.Pids(t.Context(), &agentv1.PidsRequest{ContainerId: c.id})
	if err != nil {
		t.Fatal(err)
	}
	found := map[uint32]string{}
	for _, p := range resp.Processes {
		found[p.Pid] = p.ExecId
	}
	if id, ok := found[e.pid]; !ok || id != e.execID {
		t.Errorf("exec is %q in %v", id, resp.Processes)
	}
	if id, ok := found[c.pid]; !ok || id != "" {
		t.Errorf("init is %q in %v", id, resp.Processes)
	}
	if err := e.signal(unix.SIGINT, false); err != nil {
		t.Fatal(err)
	}
	if got := e.wait().GetStatus(); got != 130 {
		t.Errorf("status %d", got)
	}
	stats, err := g.client.Stats(t.Context(), &agentv1.StatsRequest{ContainerId: c.id})
	if err != nil || stats.GetCpu().GetUsageUsec() == 0 {
		t.Errorf("stats: %v, %v", stats, err)
	}
	c.end()
}

func TestWhatIsNotThereIsNotFound(t *testing.T) {
	g := newGuest(t)
	none := &running{g: g, id: "none"}
	if err := none.start(); status.Code(err) != codes.NotFound {
		t.Errorf("start: %v", err)
	}
	if err := none.signal(unix.SIGKILL, true); status.Code(err) != codes.NotFound {
		t.Errorf("signal: %v", err)
	}
	c := g.sleeper()
	_, err := g.client.CreateContainer(t.Context(), &agentv1.CreateContainerRequest{Id: c.id, Spec: mustJSON(t, g.spec("true"))})
	if status.Code(err) != codes.AlreadyExists {
		t.Errorf("a second container of that id: %v", err)
	}
	if err := c.start(); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a second start: %v", err)
	}
	if _, err := c.delete(); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("delete while running: %v", err)
	}
	c.end()
}

func TestHandshakeRefusesAnotherVersion(t *testing.T) {
	g := newGuest(t)
	if _, err := g.client.Handshake(t.Context(), &agentv1.HandshakeRequest{Version: 2}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("got %v", err)
	}
	resp, err := g.client.Handshake(t.Context(), &agentv1.HandshakeRequest{Version: 1})
	if err != nil || resp.Kernel == "" || len(resp.Marks) == 0 {
		t.Errorf("got %v, %v", resp, err)
	}
}

func TestManyShortProcessesKeepTheirStatus(t *testing.T) {
	g := newGuest(t)
	c := g.sleeper()
	const parallel, each = 4, 5
	errs := make(chan string, parallel*each)
	for range parallel {
		go func() {
			for range each {
				e, err := c.exec(g.spec("sh", "-c", "(true &) ; exit 33").Process)
				if err != nil {
					errs <- err.Error()
					continue
				}
				if got := e.finish().code; got != 33 {
					errs <- "wrong status"
				} else {
					errs <- ""
				}
			}
		}()
	}
	for range parallel * each {
		if e := <-errs; e != "" {
			t.Error(strings.TrimSpace(e))
		}
	}
	c.end()
}

// TestAFrozenContainerHoldsUpNobodyElse that freezes itself, behind the agent's back, and so each process that is born
// in it.
func TestAFrozenContainerHoldsUpNobodyElse(t *testing.T) {
	g := newGuest(t)
	if g.vm {
		t.Skip("the guest's cgroups are out of reach")
	}
	c := g.sleeper()
	c.freeze(true)
	type answer struct {
		r   *running
		err error
	}
	held := make(chan answer, 1)
	go func() {
		e, err := c.exec(g.spec("echo", "late").Process)
		held <- answer{e, err}
	}()
	for range 5 {
		if got := g.run(g.spec("sh", "-c", "echo here; exit 3")); got.stdout != "here\n" || got.code != 3 {
			t.Errorf("another container: %+v", got)
		}
	}
	select {
	case a := <-held:
		t.Errorf("the exec was prepared while frozen: %v", a.err)
	default:
	}
	c.freeze(false)
	a := <-held
	if a.err != nil {
		t.Fatal(a.err)
	}
	if got := a.r.finish(); got.stdout != "late\n" {
		t.Errorf("the exec: %+v", got)
	}
	c.end()
}

// TestAnExecOfAFrozenContainerEndsWithItsCall whose deadline the caller set; nothing is left to come to life later.
func TestAnExecOfAFrozenContainerEndsWithItsCall(t *testing.T) {
	g := newGuest(t)
	if g.vm {
		t.Skip("the guest's cgroups are out of reach")
	}
	c := g.sleeper()
	c.freeze(true)
	procs := func() int {
		text, err := os.ReadFile(filepath.Join(c.cgroup(), "cgroup.procs"))
		if err != nil {
			t.Fatal(err)
		}
		return len(strings.Fields(string(text)))
	}
	before := procs()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := g.client.ExecProcess(ctx, &agentv1.ExecProcessRequest{
		ContainerId: c.id, ExecId: "late", Process: mustJSON(t, g.spec("true").Process),
	})
	if err == nil {
		t.Error("a process was prepared while frozen")
	}
	for end := time.Now().Add(10 * time.Second); procs() != before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d processes, %d before", procs(), before)
		}
	}
	c.freeze(false)
	c.end()
}
