package sandbox

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"
)

func TestCloseEndsACreateThatIsUnderWay(t *testing.T) {
	r := newRig(t, "")
	launched := make(chan struct{})
	r.prepare = func(f *fakeVMM) {
		f.mute = true
		close(launched)
	}
	created := make(chan error, 1)
	go func() { created <- r.Create(context.Background(), Request{ID: "c", Bundle: bundleOf(t, "")}) }()
	<-launched
	closed := make(chan error, 1)
	go func() { closed <- r.Close() }()
	for range 2 {
		select {
		case err := <-created:
			if err == nil {
				t.Error("the container was created")
			}
		case err := <-closed:
			if err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(string(r.Dir)); err == nil {
				t.Error("the directory is there")
			}
		case <-time.After(patience):
			t.Fatal("neither ends")
		}
	}
	select {
	case <-r.vmm.done:
	default:
		t.Error("the VMM lives")
	}
	if err := r.Create(t.Context(), Request{ID: "c", Bundle: bundleOf(t, "")}); err == nil {
		t.Error("a closed sandbox takes a container")
	}
}

// What the guest still uses is not taken from it.
func TestAMemberStaysUntilTheGuestHasDeletedIt(t *testing.T) {
	r := newRig(t, "")
	r.create(t)
	if err := r.Create(t.Context(), Request{ID: "m", Bundle: bundleOf(t, memberSpec)}); err != nil {
		t.Fatal(err)
	}
	m, err := r.member("m")
	if err != nil {
		t.Fatal(err)
	}
	share := "vmm.RemoveShare " + m.prepared.guest.RootID
	r.vmm.exit("m") <- 5
	r.wait(t, "m")
	r.vmm.fail["DeleteProcess"] = errors.New("device or resource busy")
	if _, err := r.Delete(t.Context(), "m"); err == nil || r.vmm.was(share) {
		t.Errorf("%v; its root was taken: %v", err, r.vmm.was(share))
	}
	delete(r.vmm.fail, "DeleteProcess")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if exit, err := r.Delete(cancelled, "m"); err != nil || exit.Status != 5 || !r.vmm.was(share) {
		t.Errorf("%v, %v; its root was taken: %v", exit, err, r.vmm.was(share))
	}
}

func TestWhoDoesNotHeedSIGKILL(t *testing.T) {
	for name, c := range map[string]struct {
		first, silent, heeds bool
		ends                 bool
	}{
		"the VM's own container":                      {first: true, ends: true},
		"a further container, and the agent answers":  {},
		"a further container, and the agent does not": {silent: true, ends: true},
		"one that does":                               {first: true, heeds: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "")
			r.create(t)
			if c.silent {
				r.vmm.fail["Stats"] = errors.New("no")
			}
			done, timeout := make(chan struct{}), time.Millisecond
			if c.heeds {
				timeout = time.Hour
				close(done)
			}
			guest{r.vm.agent, r.vm, c.first}.insist("c", done, timeout)
			select {
			case <-r.vmm.done:
				if !c.ends {
					t.Error("the VM was ended")
				}
			default:
				if c.ends {
					t.Error("the VM goes on")
				}
			}
		})
	}
}
