package container

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	"github.com/huskvm/husk/shim/internal/stdio"
)

func TestEventsComeInContainerdsOrder(t *testing.T) {
	r := create(t, stdio.Config{})
	r.start(t, "")
	if err := r.Exec("e", &specs.Process{Args: []string{"x"}}, stdio.Config{}); err != nil {
		t.Fatal(err)
	}
	r.start(t, "e")
	r.guest.exit("e") <- exited(3)
	r.wait(t, "e")
	r.guest.exit("") <- exited(42)
	if got := r.wait(t, "").Status; got != 42 {
		t.Errorf("status %d, want 42", got)
	}
	if _, err := r.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.Told()
	want := []string{"Create", "Start", "ExecAdded e", "ExecStarted e", "Exit e 3", "Exit c 42", "Delete"}
	if diff := cmp.Diff(want, r.sink.all()); diff != "" {
		t.Error(diff)
	}
}

func TestTheContainersExitIsTheLastOfItsProcesses(t *testing.T) {
	r := create(t, stdio.Config{})
	r.start(t, "")
	if err := r.Exec("e", &specs.Process{Args: []string{"x"}}, stdio.Config{}); err != nil {
		t.Fatal(err)
	}
	r.start(t, "e")
	r.guest.exit("") <- exited(0)
	select {
	case <-r.process(t, "").done:
		t.Fatal("the container's exit was told before its process's")
	case <-time.After(50 * time.Millisecond):
	}
	if err := r.Exec("late", &specs.Process{Args: []string{"x"}}, stdio.Config{}); err != nil {
		t.Fatal(err)
	}
	if err := r.process(t, "late").Start(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a process starts in a container that has exited: %v", err)
	}
	r.guest.exit("e") <- exited(137)
	r.wait(t, "")
	got := r.sink.all()
	if i, j := slices.Index(got, "Exit e 137"), slices.Index(got, "Exit c 0"); i < 0 || j < i {
		t.Errorf("events %q", got)
	}
}

func TestTheExitWaitsForTheOutput(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	if err := syscall.Mkfifo(out, 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := os.OpenFile(out, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	r := create(t, stdio.Config{Stdout: out})
	conn := r.stream(t, r.process(t, "").session.Stdout)
	r.start(t, "")
	r.guest.exit("") <- exited(0)
	select {
	case <-r.process(t, "").done:
		t.Fatal("the exit was told before the end of output")
	case <-time.After(50 * time.Millisecond):
	}
	if _, err := conn.Write([]byte("last words")); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	r.wait(t, "")
	got := make([]byte, 32)
	_ = client.SetDeadline(time.Now().Add(patience))
	if n, err := client.Read(got); err != nil || string(got[:n]) != "last words" {
		t.Errorf("%q, %v", got[:n], err)
	}
}

func TestTheVMsEndIsTheProcesses(t *testing.T) {
	for _, outcome := range []uint32{137, 255} {
		r := create(t, stdio.Config{})
		r.start(t, "")
		r.guest.outcome = outcome
		close(r.guest.gone)
		if got := r.wait(t, "").Status; got != outcome {
			t.Errorf("status %d, want %d", got, outcome)
		}
		if got := r.wait(t, "").Status; got != outcome {
			t.Errorf("the second wait says %d", got)
		}
		<-r.ended
	}
}

// Who is told that a start has failed with the VM deletes the container next, and that must have stopped by then.
func TestAStartThatFailsWithTheVMFindsTheContainerStopped(t *testing.T) {
	for range 50 {
		r := create(t, stdio.Config{})
		r.guest.outcome, r.guest.endsAtStart = 137, true
		if err := r.process(t, "").Start(t.Context()); !errdefs.IsUnavailable(err) {
			t.Fatalf("error %v", err)
		}
		if got := r.State(); got != Stopped {
			t.Fatalf("state %s", got)
		}
		if exit, err := r.Delete(t.Context()); err != nil || exit.Status != 137 {
			t.Fatalf("%+v, %v", exit, err)
		}
	}
}

func TestAnUnsetStatusIsNot0(t *testing.T) {
	r := create(t, stdio.Config{})
	r.start(t, "")
	r.guest.exit("") <- &agentv1.Exit{}
	if got := r.wait(t, "").Status; got != 255 {
		t.Errorf("status %d, want 255", got)
	}
}

func TestAContainerKilledBeforeItsStartIs137(t *testing.T) {
	r := create(t, stdio.Config{})
	if err := r.process(t, "").Kill(t.Context(), 9, false); err != nil {
		t.Fatal(err)
	}
	if got := r.wait(t, "").Status; got != 137 {
		t.Errorf("status %d", got)
	}
	if err := r.process(t, "").Start(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("it starts after its end: %v", err)
	}
}

func TestDeletingACreatedContainerKillsIt(t *testing.T) {
	r := create(t, stdio.Config{})
	exit, err := r.Delete(t.Context())
	if err != nil || exit.Status != 137 {
		t.Fatalf("%+v, %v", exit, err)
	}
	if diff := cmp.Diff([]string{"Create", "Exit c 137"}, r.sink.all()); diff != "" {
		t.Error(diff)
	}
}

func TestAFailedStartLeavesItCreated(t *testing.T) {
	r := create(t, stdio.Config{})
	r.guest.fail["StartProcess"] = errdefs.ErrNotFound
	if err := r.process(t, "").Start(t.Context()); !errdefs.IsNotFound(err) {
		t.Fatal(err)
	}
	if got := r.State(); got != Created {
		t.Errorf("state %s", got)
	}
	if diff := cmp.Diff([]string{"Create"}, r.sink.all()); diff != "" {
		t.Error(diff)
	}
}

func TestAFailedExecCanBeDeletedAndTriedAgain(t *testing.T) {
	r := create(t, stdio.Config{})
	r.start(t, "")
	if err := r.Exec("e", &specs.Process{Args: []string{"x"}}, stdio.Config{}); err != nil {
		t.Fatal(err)
	}
	if err := r.Exec("e", &specs.Process{Args: []string{"x"}}, stdio.Config{}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("the id is taken twice: %v", err)
	}
	r.guest.fail["ExecProcess"] = errdefs.ErrInvalidArgument
	if err := r.process(t, "e").Start(t.Context()); !errdefs.IsInvalidArgument(err) {
		t.Fatal(err)
	}
	if exit, err := r.DeleteExec(t.Context(), "e"); err != nil || exit.Status != 0 {
		t.Fatalf("%+v, %v", exit, err)
	}
	delete(r.guest.fail, "ExecProcess")
	if err := r.Exec("e", &specs.Process{Args: []string{"x"}}, stdio.Config{}); err != nil {
		t.Fatal(err)
	}
	r.start(t, "e")
	if diff := cmp.Diff([]string{"e"}, r.Execs()); diff != "" {
		t.Error(diff)
	}
}

func TestAResizeBeforeTheStartIsRemembered(t *testing.T) {
	r := create(t, stdio.Config{})
	r.start(t, "")
	size := &specs.Box{Width: 80, Height: 25}
	if err := r.Exec("e", &specs.Process{Args: []string{"x"}, ConsoleSize: size}, stdio.Config{Terminal: true}); err != nil {
		t.Fatal(err)
	}
	r.guest.fail["ResizePty"] = errdefs.ErrNotFound // as there is no terminal yet
	if err := r.process(t, "e").Resize(t.Context(), 132, 43); err != nil {
		t.Fatal(err)
	}
	delete(r.guest.fail, "ResizePty")
	r.start(t, "e")
	for _, want := range []string{"ExecProcess e 132x43", "ResizePty e 132x43"} {
		if !slices.Contains(r.guest.calls, want) {
			t.Errorf("calls %q lack %q", r.guest.calls, want)
		}
	}
}

func TestPauseAndResume(t *testing.T) {
	r := create(t, stdio.Config{})
	r.start(t, "")
	if err := r.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := r.State(); got != Paused {
		t.Errorf("state %s", got)
	}
	if err := r.Pause(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("paused twice: %v", err)
	}
	if err := r.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := r.State(); got != Running {
		t.Errorf("state %s", got)
	}
	if diff := cmp.Diff([]string{"Create", "Start", "Paused", "Resumed"}, r.sink.all()); diff != "" {
		t.Error(diff)
	}
}

func TestAnOutOfMemoryKillIsToldAndLeftInTheBundle(t *testing.T) {
	r := create(t, stdio.Config{})
	r.OOM()
	if _, err := os.Stat(filepath.Join(r.Bundle, "oom")); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"Create", "OOM"}, r.sink.all()); diff != "" {
		t.Error(diff)
	}
}

func TestVerbsOnAStoppedContainer(t *testing.T) {
	r := create(t, stdio.Config{})
	r.start(t, "")
	r.guest.exit("") <- exited(0)
	r.wait(t, "")
	p := r.process(t, "")
	if err := p.Kill(t.Context(), 9, true); !errdefs.IsNotFound(err) {
		t.Errorf("kill: %v", err)
	}
	if err := p.Resize(t.Context(), 1, 1); err != nil {
		t.Errorf("resize: %v", err)
	}
	if err := p.CloseStdin(t.Context()); err != nil {
		t.Errorf("close stdin: %v", err)
	}
	if err := p.Start(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("start: %v", err)
	}
	if err := r.Exec("e", &specs.Process{}, stdio.Config{}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec: %v", err)
	}
	if _, err := r.Stats(t.Context()); !errdefs.IsNotFound(err) {
		t.Errorf("stats: %v", err)
	}
}

func TestStatisticsOutlastTheContainer(t *testing.T) {
	r := create(t, stdio.Config{})
	r.guest.last = &agentv1.StatsResponse{Pids: &agentv1.StatsResponse_PIDs{Limit: 7}}
	r.start(t, "")
	r.guest.exit("") <- exited(0)
	r.wait(t, "")
	for range 2 {
		stats, err := r.Stats(t.Context())
		if err != nil || stats.GetPids().GetLimit() != 7 {
			t.Fatalf("%v, %v", stats, err)
		}
		stats.Pids.Limit = 8 // of the caller's copy
	}
}

func TestARunningContainerIsNotDeleted(t *testing.T) {
	r := create(t, stdio.Config{})
	r.start(t, "")
	if _, err := r.Delete(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Fatal(err)
	}
}

func TestStatesTableIsWhole(t *testing.T) {
	for _, v := range []verb{start, exec, kill, pause, resume, update, resize, closeIO, remove, inspect} {
		if _, ok := verdicts[v]; !ok {
			t.Errorf("%s is not in the table", v)
		}
	}
}
