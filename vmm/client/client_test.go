package client

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// program is a stand-in for husk-vmm that never answers: what matters here is how its end is noticed.
func program(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vmm")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// within fails the test when f takes longer than anybody would wait.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatalf("still waiting: %s", what)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("new namespaces need root")
	}
}

func TestAVMMThatDiesBeforeItIsPlacedIsAnError(t *testing.T) {
	needRoot(t)
	gone := errors.New("no such process")
	within(t, "Start", func() {
		_, err := Start(t.Context(), Command{Path: program(t, "exec sleep 1000"), Cgroup: func(pid int) error {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
			return gone
		}})
		if !errors.Is(err, gone) {
			t.Errorf("got %v", err)
		}
	})
}

func TestAKilledVMMIsDone(t *testing.T) {
	needRoot(t)
	v, err := Start(t.Context(), Command{Path: program(t, "exec sleep 1000")})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Kill(); err != nil {
		t.Error(err)
	}
	within(t, "Done", func() { <-v.Done() })
	if s := v.Status(); s.Guest != nil || !s.Process.Signaled() || s.Process.Signal() != syscall.SIGKILL {
		t.Errorf("got %+v", s)
	}
	if err := v.Kill(); err != nil {
		t.Errorf("kill again: %v", err)
	}
}

func TestAMissingVMMIsNamed(t *testing.T) {
	_, err := Start(t.Context(), Command{Path: "/no/such/vmm"})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
