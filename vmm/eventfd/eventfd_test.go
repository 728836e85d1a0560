package eventfd

import (
	"errors"
	"os"
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
