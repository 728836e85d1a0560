package rundir

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestTheNameDependsOnContainerdNamespaceAndID(t *testing.T) {
	seen := map[Dir]bool{}
	for _, d := range []Dir{
		Of(Root, "/a", "ns", "id"), Of(Root, "/b", "ns", "id"), Of(Root, "/a", "n", "id"), Of(Root, "/a", "ns", "i"),
		Of(Root, "/a", "nsid", ""), Of(Root, "", "ns", "id"),
	} {
		if seen[d] {
			t.Errorf("%s is used twice", d)
		}
		seen[d] = true
		if len(d.Join(StreamSocket)) > 100 {
			t.Errorf("%s leaves no room for a socket", d)
		}
	}
	if first, again := Of(Root, "/a", "ns", "id"), Of(Root, "/a", "ns", "id"); first != again {
		t.Error("the name is not stable")
	}
}

func TestTheLockHasOneHolder(t *testing.T) {
	d := Dir(t.TempDir())
	if d.Served() {
		t.Error("served before it is locked")
	}
	lock, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Lock(); !errors.Is(err, ErrLocked) {
		t.Fatalf("second lock: %v", err)
	}
	if !d.Served() {
		t.Error("not served though locked")
	}
	lock.Close()
	if d.Served() {
		t.Error("served after unlocking")
	}
}

// serve starts a process that inherits the lock, as the shim does.
func serve(t *testing.T, d Dir) *exec.Cmd {
	t.Helper()
	lock, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	cmd := exec.Command("sleep", "60")
	cmd.ExtraFiles = []*os.File{lock}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	p, err := Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := SetHolder(lock, p); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestEvictKillsTheHolder(t *testing.T) {
	d := Dir(t.TempDir())
	cmd := serve(t, d)
	lock, err := d.Evict(10 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	lock.Close()
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the holder ended with %v", err)
	}
}

func TestARecycledPidIsNotKilled(t *testing.T) {
	cmd := serve(t, Dir(t.TempDir()))
	p, err := Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	p.Start--
	if err := p.Kill(time.Second); err != nil {
		t.Fatal(err)
	}
	if now, err := Identify(cmd.Process.Pid); err != nil || now.PID != p.PID {
		t.Fatalf("the process is gone: %v", err)
	}
}

func TestKillingWhatIsGoneIsNoError(t *testing.T) {
	for _, p := range []Process{{}, {PID: 1 << 22, Start: 1}} {
		if err := p.Kill(time.Second); err != nil {
			t.Errorf("%v: %v", p, err)
		}
	}
}

func TestStateSurvives(t *testing.T) {
	d := Dir(t.TempDir())
	want := State{ID: "c", Namespace: "ns", VMM: Process{1, 2}, Containers: []Container{{ID: "c", Exit: &Exit{Status: 42}}}}
	if err := d.Save(want); err != nil {
		t.Fatal(err)
	}
	got, err := d.Load()
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != "c" || got.VMM != want.VMM || got.Containers[0].Exit.Status != 42 {
		t.Fatalf("%+v", got)
	}
}

func TestANewerStateIsRefused(t *testing.T) {
	d := Dir(t.TempDir())
	if err := d.Replace(stateFile, []byte(`{"version": 99}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Load(); err == nil || !strings.Contains(err.Error(), "newer husk") {
		t.Fatalf("error %v", err)
	}
}
