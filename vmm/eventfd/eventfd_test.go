package eventfd

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestWaitReturnsOncePerSignalBurst(t *testing.T) {
	e, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for range 3 {
		if err := e.Signal(); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Wait(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- e.Wait() }()
	e.Cancel()
	if err := <-done; !errors.Is(err, ErrCancelled) {
		t.Fatalf("second wait: %v", err)
	}
}

func TestRearmAfterCancel(t *testing.T) {
	e, err := New()
	if err != nil {
		t.Fatal(err)
	}
	e.Cancel()
	if err := e.Wait(); !errors.Is(err, ErrCancelled) {
		t.Fatalf("cancelled: %v", err)
	}
	e.Rearm()
	if err := e.Signal(); err != nil {
		t.Fatal(err)
	}
	if err := e.Wait(); err != nil {
		t.Fatal(err)
	}
	_ = e.Close()
	if err := e.Wait(); !errors.Is(err, os.ErrClosed) {
		t.Fatalf("closed: %v", err)
	}
}

// polled says whether the runtime's poller knows a descriptor of this process.
func polled(t *testing.T, fd int) bool {
	t.Helper()
	all, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		if target, _ := os.Readlink(path); target != "anon_inode:[eventpoll]" {
			continue
		}
		text, err := os.ReadFile("/proc/self/fdinfo/" + filepath.Base(path))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "tfd:" && f[1] == strconv.Itoa(fd) {
				return true
			}
		}
	}
	return false
}

func TestOnlyWhoWaitsIsWoken(t *testing.T) {
	e, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	e.Rearm()
	if err := e.Signal(); err != nil {
		t.Fatal(err)
	}
	if polled(t, e.FD()) {
		t.Error("the poller knows it before anybody waits")
	}
	if err := e.Wait(); err != nil {
		t.Fatal(err)
	}
	if !polled(t, e.FD()) {
		t.Error("the poller does not know it")
	}
}

func TestWhatWasNeverWaitedForIsClosedOnce(t *testing.T) {
	e, err := New()
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	for what, err := range map[string]error{"close": e.Close(), "signal": e.Signal(), "wait": e.Wait()} {
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
