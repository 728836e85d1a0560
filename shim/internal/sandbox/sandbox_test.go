package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	vmmv1 "github.com/huskvm/husk/proto/husk/vmm/v1"
	"github.com/huskvm/husk/shim/internal/bundle"
	"github.com/huskvm/husk/shim/internal/rundir"
	"github.com/huskvm/husk/vmm/client"
)

func (r *rig) create(t *testing.T) {
	t.Helper()
	if err := r.Create(t.Context(), Request{ID: "c", Bundle: bundleOf(t, "")}); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) wait(t *testing.T, id string) uint32 {
	t.Helper()
	c, err := r.Container(id)
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Process("")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	exit, err := p.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return exit.Status
}

// clean checks that a sandbox without a VM holds nothing but its records.
func (r *rig) clean(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir(string(r.Dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		switch e.Name() {
		case "state.json", rundir.VMMLog, rundir.Containers, rundir.Timeline:
		default:
			t.Errorf("left: %s", e.Name())
		}
	}
	if left, _ := os.ReadDir(r.Dir.Join(rundir.Containers)); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if r.vmm != nil {
		if err := syscall.Kill(r.vmm.PID(), 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("the VMM's pid is alive: %v", err)
		}
	}
}

func TestTheFirstContainersLifeIsTheVMs(t *testing.T) {
	r := newRig(t, "default_vcpus = 2\nkernel_cmdline = \"debug\"\n")
	r.create(t)
	pid := int(r.PID())
	if err := syscall.Kill(pid, 0); err != nil {
		t.Errorf("the pid %d is not alive: %v", pid, err)
	}
	boot := r.vmm.boot
	if boot.Vcpus != 2 || boot.MemoryBytes != 512<<20 || boot.Cmdline != hostname()+"quiet dummy.numdummies=0 fb_tunnels=none debug" || len(boot.Shares) != 1 || len(boot.Disks) != 0 {
		t.Errorf("boot %v", boot)
	}
	if boot.Backend.Kind != "auto" || boot.Kernel == 0 || boot.Initramfs == 0 || boot.Vsock.Directory == 0 || boot.Console.Output != 0 {
		t.Errorf("tokens in %v", boot)
	}
	if err := r.Start(t.Context(), "c", ""); err != nil {
		t.Fatal(err)
	}
	r.vmm.exit("c") <- 42
	if got := r.wait(t, "c"); got != 42 {
		t.Errorf("status %d", got)
	}
	exit, err := r.Delete(t.Context(), "c")
	if err != nil || exit.Status != 42 {
		t.Fatalf("%v, %v", exit, err)
	}
	if !r.vmm.was("Shutdown") {
		t.Error("the guest was not asked to write back")
	}
	r.clean(t)
	if diff := cmp.Diff([]string{"Create", "Start", "Exit", "Delete"}, r.sink.all()); diff != "" {
		t.Error(diff)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(string(r.Dir)); err == nil {
		t.Error("the directory is there after Close")
	}
}

func TestTheExitIsInTheStateBeforeItIsTold(t *testing.T) {
	r := newRig(t, "")
	r.create(t)
	r.vmm.exit("c") <- 3
	r.wait(t, "c")
	state, err := r.Dir.Load()
	if err != nil || len(state.Containers) != 1 || state.Containers[0].Exit == nil || state.Containers[0].Exit.Status != 3 {
		t.Fatalf("%+v, %v", state, err)
	}
}

// The guest's own event may come later, or not at all.
func TestAnOutOfMemoryKillIsToldBeforeTheExit(t *testing.T) {
	for name, test := range map[string]struct {
		kills  uint64
		status uint32
		want   []string
	}{
		"killed":       {1, 137, []string{"Create", "Start", "OOM", "Exit"}},
		"not for that": {0, 137, []string{"Create", "Start", "Exit"}},
		"in peace":     {1, 0, []string{"Create", "Start", "Exit"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "")
			r.prepare = func(f *fakeVMM) { f.ooms = map[string]uint64{"c": test.kills} }
			r.create(t)
			if err := r.Start(t.Context(), "c", ""); err != nil {
				t.Fatal(err)
			}
			r.vmm.exit("c") <- test.status
			r.wait(t, "c")
			if got := r.sink.all(); !slices.Equal(got, test.want) {
				t.Errorf("events %q, want %q", got, test.want)
			}
		})
	}
}

func TestHowTheVMEndsIsTheStatus(t *testing.T) {
	guest := &vmmv1.WaitResponse{Reason: vmmv1.WaitResponse_REASON_CRASH, ConsoleTail: []byte("Kernel panic")}
	for _, test := range []struct {
		name string
		end  client.ExitStatus
		want uint32
	}{
		{"killed from outside", client.ExitStatus{Process: syscall.WaitStatus(syscall.SIGKILL)}, 137},
		{"terminated from outside", client.ExitStatus{Process: syscall.WaitStatus(syscall.SIGTERM)}, 137},
		{"guest died", client.ExitStatus{Guest: guest}, 255},
		{"VMM crashed", client.ExitStatus{Process: syscall.WaitStatus(syscall.SIGSEGV)}, 255},
		{"VMM gave up", client.ExitStatus{Process: 2 << 8}, 255},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, "")
			r.create(t)
			if err := r.Start(t.Context(), "c", ""); err != nil {
				t.Fatal(err)
			}
			r.vmm.end(test.end)
			if got := r.wait(t, "c"); got != test.want {
				t.Errorf("status %d, want %d", got, test.want)
			}
			c, err := r.Container("c")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Stats(t.Context()); !errdefs.IsNotFound(err) {
				t.Errorf("stats of a dead VM: %v", err)
			}
			if _, err := r.Delete(t.Context(), "c"); err != nil {
				t.Fatal(err)
			}
			r.clean(t)
		})
	}
}

func TestAFailureInCreateLeavesNothingAndIsNamed(t *testing.T) {
	bind := `{"process": {"args": ["sh"], "cwd": "/"}, "root": {"path": "rootfs"}, "linux": {},
		"mounts": [{"destination": "/x", "type": "bind", "source": "/nonexistent/source", "options": ["rbind"]}]}`
	for _, test := range []struct {
		name    string
		config  string // of husk
		spec    string
		prepare func(*fakeVMM)
		change  func(*rig, *Request)
		want    []string
	}{
		{name: "no kernel", config: "", change: func(r *rig, q *Request) { q.ConfigBody = []byte(`kernel = "/nonexistent/k"`) },
			want: []string{"/nonexistent/k", "husk-kernel", "configuration"}},
		{name: "no VMM", change: func(r *rig, q *Request) { q.ConfigBody = []byte(`vmm_path = "/nonexistent/v"`) },
			want: []string{"/nonexistent/v", "husk-vmm"}},
		{name: "bad mount", change: func(_ *rig, q *Request) { q.Rootfs = []*types.Mount{{Type: "nosuchfs", Source: "s"}} },
			want: []string{"nosuchfs"}},
		{name: "no bind source", spec: bind, want: []string{"/nonexistent/source"}},
		{name: "VMM refuses", prepare: func(f *fakeVMM) { f.bootErr = errors.New("out of guest memory") },
			want: []string{"boot the VM", "out of guest memory"}},
		{name: "VMM dies while booting", prepare: func(f *fakeVMM) {
			f.mute = true
			time.AfterFunc(50*time.Millisecond, func() {
				f.end(client.ExitStatus{Guest: &vmmv1.WaitResponse{Reason: vmmv1.WaitResponse_REASON_CRASH, Detail: "triple fault", ConsoleTail: []byte("init: not found")}})
			})
		}, want: []string{"triple fault", "init: not found"}},
		{name: "agent never connects", config: `boot_timeout = "100ms"`, prepare: func(f *fakeVMM) { f.mute = true },
			want: []string{"boot_timeout", "100ms", "the console says hello"}},
		{name: "agent refuses", prepare: func(f *fakeVMM) {
			f.fail["CreateContainer"] = errdefs.ErrInvalidArgument.WithMessage("no user nobody-here")
		},
			want: []string{"nobody-here"}},
		{name: "no version in common", prepare: func(f *fakeVMM) { f.fail["Handshake"] = errdefs.ErrFailedPrecondition },
			want: []string{"shake hands"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, test.config)
			if test.prepare != nil {
				r.prepare = test.prepare
			}
			request := Request{ID: "c", Bundle: bundleOf(t, test.spec)}
			if test.change != nil {
				test.change(r, &request)
			}
			begin := time.Now()
			err := r.Create(t.Context(), request)
			if err == nil {
				t.Fatal("no error")
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("the error took %s", took)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
			r.clean(t)
			if r.Containers() != 0 || len(r.sink.all()) != 0 {
				t.Errorf("%d containers, events %q", r.Containers(), r.sink.all())
			}
			// The sandbox is as it was.
			r.prepare = func(*fakeVMM) {}
			r.create(t)
		})
	}
}

func TestCreateEndsWithItsCaller(t *testing.T) {
	r := newRig(t, "")
	r.prepare = func(f *fakeVMM) { f.mute = true }
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.Create(ctx, Request{ID: "c", Bundle: bundleOf(t, "")}); err == nil {
		t.Fatal("no error")
	}
	r.clean(t)
}

func TestAFurtherContainerComesAndGoesWithItsShares(t *testing.T) {
	r := newRig(t, "")
	r.create(t)
	if err := r.Create(t.Context(), Request{ID: "m", Bundle: bundleOf(t, memberSpec)}); err != nil {
		t.Fatal(err)
	}
	var member bundle.Guest
	if m, err := r.member("m"); err == nil {
		member = *m.prepared.guest
	}
	if !r.vmm.was("vmm.AddShare " + member.RootID) {
		t.Errorf("calls %q", r.vmm.calls)
	}
	r.vmm.exit("m") <- 5
	if got := r.wait(t, "m"); got != 5 {
		t.Errorf("status %d", got)
	}
	if _, err := r.Delete(t.Context(), "m"); err != nil {
		t.Fatal(err)
	}
	if !r.vmm.was("vmm.RemoveShare " + member.RootID) {
		t.Errorf("calls %q", r.vmm.calls)
	}
	select {
	case <-r.vmm.done:
		t.Error("the VM ended with a further container")
	default:
	}
}

func TestTheFirstContainersEndIsEverybodys(t *testing.T) {
	r := newRig(t, "")
	r.create(t)
	if err := r.Create(t.Context(), Request{ID: "m", Bundle: bundleOf(t, memberSpec)}); err != nil {
		t.Fatal(err)
	}
	r.vmm.exit("c") <- 0
	if got := r.wait(t, "m"); got != 137 {
		t.Errorf("status %d", got)
	}
}

func TestAStrangerIsNotAdmitted(t *testing.T) {
	r := newRig(t, "")
	if err := r.Create(t.Context(), Request{ID: "m", Bundle: bundleOf(t, memberSpec)}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a further container makes the sandbox: %v", err)
	}
	r.create(t)
	for id, want := range map[string]func(error) bool{"c": errdefs.IsAlreadyExists, "x": errdefs.IsFailedPrecondition} {
		if err := r.Create(t.Context(), Request{ID: id, Bundle: bundleOf(t, "")}); !want(err) {
			t.Errorf("%s: %v", id, err)
		}
	}
}

func TestAPausedSandboxSleepsUntilSomebodyCalls(t *testing.T) {
	r := newRig(t, "")
	r.create(t)
	if err := r.Start(t.Context(), "c", ""); err != nil {
		t.Fatal(err)
	}
	if err := r.Pause(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	// The clock may be being set.
	for end := time.Now().Add(10 * time.Second); !r.vmm.was("vmm.Pause"); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the vCPUs run")
		}
	}
	c, _ := r.Container("c")
	p, _ := c.Process("")
	if err := p.Kill(t.Context(), 15, false); err != nil {
		t.Fatal(err)
	}
	if !r.vmm.was("vmm.Resume") {
		t.Error("a call went to vCPUs that do not run")
	}
	if err := r.Resume(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if !r.vmm.was("SyncClock") || !r.vmm.was("Resume c") {
		t.Errorf("calls %q", r.vmm.calls)
	}
}

func TestAVMWhosePauseFailsIsWokenAllTheSame(t *testing.T) {
	for name, cause := range map[string]error{"its caller is gone": nil, "the VMM says so": errors.New("not now")} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "")
			r.prepare = func(f *fakeVMM) { f.fail["vmm.Pause"] = cause }
			r.create(t)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			v := r.Sandbox.vm
			v.mu.Lock()
			err := v.stopVCPUs(ctx)
			v.mu.Unlock()
			if (err == nil) != (cause == nil) {
				t.Errorf("pause: %v", err)
			}
			if err := r.Start(t.Context(), "c", ""); err != nil {
				t.Fatal(err)
			}
			if !r.vmm.was("vmm.Pause") || !r.vmm.was("vmm.Resume") {
				t.Errorf("calls %q", r.vmm.calls)
			}
		})
	}
}

func TestAGuestCallEndsWithTheVM(t *testing.T) {
	r := newRig(t, "")
	r.create(t)
	v := r.vmm
	time.AfterFunc(50*time.Millisecond, func() { v.end(client.ExitStatus{Process: syscall.WaitStatus(syscall.SIGKILL)}) })
	// The fake agent answers no Stats: an error at once, or at the VM's end, but never a hang.
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = r.Sandbox.vm.agent.NextEvent(t.Context(), nil)
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("the call hangs")
	}
}

func TestCloseEndsWhatRunsAndTellsOfIt(t *testing.T) {
	r := newRig(t, "")
	r.create(t)
	if err := r.Start(t.Context(), "c", ""); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"Create", "Start", "Exit"}, r.sink.all()); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(string(r.Dir)); err == nil {
		t.Error("the directory is there")
	}
}

func TestASandboxWithoutAContainerTellsThatItIsIdle(t *testing.T) {
	r := newRig(t, "")
	r.IdleTime = 50 * time.Millisecond
	r.prepare = func(f *fakeVMM) { f.bootErr = errors.New("no") }
	if err := r.Create(t.Context(), Request{ID: "c", Bundle: bundleOf(t, "")}); err == nil {
		t.Fatal("no error")
	}
	select {
	case <-r.idle:
	case <-time.After(patience):
		t.Fatal("it stays")
	}
}

func TestTheTimelineIsKept(t *testing.T) {
	keep := t.TempDir()
	r := newRig(t, "timeline = \""+keep+"\"\n")
	r.create(t)
	if err := r.Start(t.Context(), "c", ""); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(keep, "c.json"))
	if err != nil {
		t.Fatal(err)
	}
	var line Timeline
	if err := json.Unmarshal(data, &line); err != nil {
		t.Fatal(err)
	}
	var names []string
	for i, e := range line.Marks {
		names = append(names, e.Source+": "+e.Name)
		if i > 0 && e.Milliseconds < line.Marks[i-1].Milliseconds {
			t.Errorf("%s is out of order", e.Name)
		}
	}
	for _, want := range []string{"vmm: first run", "guest: init", "shim: create called", "shim: container started"} {
		if !strings.Contains(strings.Join(names, "\n"), want) {
			t.Errorf("marks %q lack %q", names, want)
		}
	}
}

func TestTheConsoleIsAskedFor(t *testing.T) {
	r := newRig(t, "")
	if _, err := r.Console(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("without a VM: %v", err)
	}
	r.create(t)
	if text, err := r.Console(t.Context()); err != nil || string(text) != "the console says hello" {
		t.Errorf("%q, %v", text, err)
	}
}
