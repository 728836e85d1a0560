package container

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/huskvm/husk/shim/internal/stdio"
)

// calls are those of a method that the guest has had.
func (g *fakeGuest) callsOf(method string) (calls []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, call := range g.calls {
		if strings.HasPrefix(call, method) {
			calls = append(calls, call)
		}
	}
	return calls
}

func TestWhoWaitsForAnExecThatIsNeverStartedIsLetGo(t *testing.T) {
	for name, remove := range map[string]func(r *rig) error{
		"the exec is deleted": func(r *rig) error { _, err := r.DeleteExec(t.Context(), "e"); return err },
		"the container is deleted": func(r *rig) error {
			r.guest.exit("") <- exited(0)
			r.wait(t, "")
			_, err := r.Delete(t.Context())
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := create(t, stdio.Config{})
			r.start(t, "")
			if err := r.Exec("e", &specs.Process{Args: []string{"nosuch"}}, stdio.Config{}); err != nil {
				t.Fatal(err)
			}
			p, exits := r.process(t, "e"), make(chan Exit, 1)
			go func() {
				exit, err := p.Wait(context.Background())
				if err != nil {
					t.Error(err)
				}
				exits <- exit
			}()
			r.guest.fail["ExecProcess"] = errdefs.ErrInvalidArgument
			if err := p.Start(t.Context()); !errdefs.IsInvalidArgument(err) {
				t.Fatal(err)
			}
			if err := remove(r); err != nil {
				t.Fatal(err)
			}
			select {
			case exit := <-exits:
				if exit.Status == 0 {
					t.Error("the status is 0 of a process that never ran")
				}
			case <-time.After(patience):
				t.Fatal("it waits on")
			}
		})
	}
}

func TestAContainerThatTheGuestStillUsesIsNotDeleted(t *testing.T) {
	r := create(t, stdio.Config{})
	r.start(t, "")
	r.guest.exit("") <- exited(3)
	r.wait(t, "")
	busy := errors.New("unmount its root: device or resource busy")
	r.guest.fail["DeleteProcess"] = busy
	if _, err := r.Delete(t.Context()); !errors.Is(err, busy) {
		t.Fatalf("deleted: %v", err)
	}
	delete(r.guest.fail, "DeleteProcess")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel() // the caller's giving up does not stop the guest
	if exit, err := r.Delete(cancelled); err != nil || exit.Status != 3 {
		t.Errorf("once more: %v, %v", exit, err)
	}
}

// Whoever sees that a container has stopped may delete it at once.
func TestTheExitIsToldBeforeTheDeletion(t *testing.T) {
	r := create(t, stdio.Config{})
	told := make(chan struct{})
	r.Exited = func(Exit) { <-told }
	r.start(t, "")
	r.guest.exit("") <- exited(3)
	for r.State() != Stopped {
		time.Sleep(time.Millisecond)
	}
	done := make(chan error)
	go func() {
		_, err := r.Delete(t.Context())
		r.Told()
		done <- err
	}()
	select {
	case <-done:
		t.Error("deleted before its exit was told")
	case <-time.After(50 * time.Millisecond):
		close(told)
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if got := r.sink.all(); slices.Index(got, "Exit c 3") != len(got)-2 || got[len(got)-1] != "Delete" {
		t.Errorf("events %q", got)
	}
}

func TestSIGKILLIsInsistedOn(t *testing.T) {
	r := create(t, stdio.Config{})
	r.start(t, "")
	p := r.process(t, "")
	r.guest.fail["SignalProcess"] = errors.New("the guest does not want to")
	for _, signal := range []uint32{15, 9, 9} {
		_ = p.Kill(t.Context(), signal, false)
	}
	if err := r.Exec("e", &specs.Process{Args: []string{"x"}}, stdio.Config{}); err != nil {
		t.Fatal(err)
	}
	r.start(t, "e")
	_ = r.process(t, "e").Kill(t.Context(), 9, false)
	for end := time.Now().Add(patience); len(r.guest.callsOf("Insist")) == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if got := r.guest.callsOf("Insist"); !slices.Equal(got, []string{"Insist c"}) {
		t.Errorf("%q", got)
	}
	r.guest.exit("e") <- exited(0)
	r.guest.exit("") <- exited(0)
	r.wait(t, "")
}

func TestACreateThatIsGivenUpLeavesNothingInTheGuest(t *testing.T) {
	for name, endsVM := range map[string]bool{"a pod's further container": false, "the VM ends with it": true} {
		t.Run(name, func(t *testing.T) {
			hub, err := stdio.Listen(t.TempDir() + "/hub")
			if err != nil {
				t.Fatal(err)
			}
			defer hub.Close()
			session, err := stdio.Open(t.Context(), hub, stdio.Config{}, stdio.Owner{})
			if err != nil {
				t.Fatal(err)
			}
			g := newGuest()
			g.fail["CreateContainer"] = context.Canceled
			_, err = Create(t.Context(), Params{ID: "c", Session: session, EndsVM: endsVM, Guest: g, Sink: &recorder{}})
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			if deleted := len(g.callsOf("DeleteProcess")) > 0; deleted == endsVM {
				t.Errorf("deleted in the guest: %v", deleted)
			}
		})
	}
}
