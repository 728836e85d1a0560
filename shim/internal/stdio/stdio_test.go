package stdio

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

const patience = 20 * time.Second

func hub(t *testing.T) *Hub {
	t.Helper()
	h, err := Listen(filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// dial is the guest's agent connecting a stream.
func dial(t *testing.T, h *Hub, id string) *net.UnixConn {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, h.listener.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write(append([]byte{byte(len(id))}, id...)); err != nil {
		t.Fatal(err)
	}
	var ack [1]byte
	if _, err := io.ReadFull(conn, ack[:]); err != nil || ack[0] != 1 {
		t.Fatalf("no acknowledgement for %q: %v", id, err)
	}
	return conn
}

func mkfifo(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// client is containerd's side of an output fifo.
func client(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func open(t *testing.T, h *Hub, c Config) *Session {
	t.Helper()
	s, err := Open(t.Context(), h, c, Owner{"ns", "id"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func TestEveryByteArrivesBeforeWaitReturns(t *testing.T) {
	h := hub(t)
	out, errs := mkfifo(t, "out"), mkfifo(t, "err")
	outClient, errClient := client(t, out), client(t, errs)
	s := open(t, h, Config{Stdout: out, Stderr: errs})
	data := make([]byte, 8<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data)
	go func() {
		conn := dial(t, h, s.Stdout)
		_, _ = conn.Write(data)
		_ = conn.Close()
		conn = dial(t, h, s.Stderr)
		_, _ = conn.Write([]byte("apart"))
		_ = conn.Close()
	}()
	sum := make(chan [32]byte, 1)
	go func() {
		got, _ := io.ReadAll(outClient)
		sum <- sha256.Sum256(got)
	}()
	if err := s.Wait(patience); err != nil {
		t.Fatal(err)
	}
	if <-sum != sha256.Sum256(data) {
		t.Error("stdout differs")
	}
	if got, _ := io.ReadAll(errClient); string(got) != "apart" {
		t.Errorf("stderr %q", got)
	}
}

func TestStdinEndsOnlyWithCloseIO(t *testing.T) {
	h := hub(t)
	in := mkfifo(t, "in")
	s := open(t, h, Config{Stdin: in})
	s.Begin()
	conn := dial(t, h, s.Stdin)
	for _, text := range []string{"first client", "second client"} {
		w, err := os.OpenFile(in, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteString(text); err != nil {
			t.Fatal(err)
		}
		w.Close()
		got := make([]byte, len(text))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
			t.Fatalf("%q, %v", got, err)
		}
	}
	s.CloseStdin()
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Fatalf("after CloseIO: %d bytes, %v", n, err)
	}
	s.CloseStdin()
}

func TestAnEarlyCloseIODoesNotCutStdin(t *testing.T) {
	h := hub(t)
	in := mkfifo(t, "in")
	s := open(t, h, Config{Stdin: in})
	s.Begin()
	conn := dial(t, h, s.Stdin)
	w, err := os.OpenFile(in, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
	go func() {
		_, _ = w.Write(data[:len(data)/2])
		s.CloseStdin()
		_, _ = w.Write(data[len(data)/2:])
		w.Close()
	}()
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d of %d bytes, %v", len(got), len(data), err)
	}
}

func TestStdinHasNoReaderBeforeItsProcess(t *testing.T) {
	h := hub(t)
	in := mkfifo(t, "in")
	s := open(t, h, Config{Stdin: in})
	conn := dial(t, h, s.Stdin)
	if _, err := os.OpenFile(in, os.O_WRONLY|syscall.O_NONBLOCK, 0); !errors.Is(err, syscall.ENXIO) {
		t.Fatalf("a client finds a reader: %v", err)
	}
	s.CloseStdin() // is remembered
	s.Begin()
	if got, err := io.ReadAll(conn); err != nil || len(got) > 0 {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestWithoutStdioThereAreNoStreams(t *testing.T) {
	s := open(t, hub(t), Config{})
	if s.Stdin != "" || s.Stdout != "" || s.Stderr != "" {
		t.Errorf("streams %q %q %q", s.Stdin, s.Stdout, s.Stderr)
	}
	if err := s.Wait(patience); err != nil {
		t.Error(err)
	}
	s.CloseStdin()
}

func TestATerminalHasNoStderr(t *testing.T) {
	out := mkfifo(t, "out")
	client(t, out)
	s := open(t, hub(t), Config{Stdout: out, Stderr: "/nonexistent", Terminal: true})
	if s.Stdout == "" || s.Stderr != "" {
		t.Errorf("streams %q %q", s.Stdout, s.Stderr)
	}
}

func TestAClientThatReattachesFindsTheRest(t *testing.T) {
	h := hub(t)
	out := mkfifo(t, "out")
	first := client(t, out)
	s := open(t, h, Config{Stdout: out})
	conn := dial(t, h, s.Stdout)
	if _, err := conn.Write([]byte("one")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 3)
	if _, err := io.ReadFull(first, got); err != nil {
		t.Fatal(err)
	}
	first.Close()
	if _, err := conn.Write([]byte("two")); err != nil {
		t.Fatal(err)
	}
	second := client(t, out)
	if _, err := io.ReadFull(second, got); err != nil || string(got) != "two" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestOutputThatNobodyTakesIsCutInTheEnd(t *testing.T) {
	h := hub(t)
	out := mkfifo(t, "out")
	client(t, out)
	s := open(t, h, Config{Stdout: out})
	conn := dial(t, h, s.Stdout)
	go func() {
		_, _ = conn.Write(make([]byte, 1<<20))
		_ = conn.Close()
	}()
	if err := s.Wait(100 * time.Millisecond); !errors.Is(err, ErrOutputCut) {
		t.Fatalf("error %v", err)
	}
	s.Close() // must not hang
}

func TestOpeningGivesUpWhenNobodyReads(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := Open(ctx, hub(t), Config{Stdout: mkfifo(t, "out")}, Owner{})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error %v", err)
	}
}

func TestTheGuestReachesOnlyStreamsItWasTold(t *testing.T) {
	h := hub(t)
	out := mkfifo(t, "out")
	client(t, out)
	s := open(t, h, Config{Stdout: out})
	for _, greeting := range []string{"\x00", "\x05wrong", "\xff", ""} {
		conn, err := net.DialUnix("unix", nil, h.listener.Addr().(*net.UnixAddr))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte(greeting))
		_ = conn.CloseWrite()
		_ = conn.SetDeadline(time.Now().Add(patience))
		if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("greeting %q: %d, %v", greeting, n, err)
		}
		conn.Close()
	}
	dial(t, h, s.Stdout).Close()
	if err := s.Wait(patience); err != nil {
		t.Fatal(err)
	}
	conn, err := net.DialUnix("unix", nil, h.listener.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = conn.Write(append([]byte{byte(len(s.Stdout))}, s.Stdout...))
	if n, _ := conn.Read(make([]byte, 1)); n != 0 {
		t.Error("an id is good twice")
	}
}

func TestTheHubsEndIsTheEndOfStreamsThatNeverCame(t *testing.T) {
	h := hub(t)
	out := mkfifo(t, "out")
	client(t, out)
	s := open(t, h, Config{Stdout: out})
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(patience); err != nil {
		t.Fatal(err)
	}
	if s := open(t, h, Config{Stdout: out}); s.Wait(patience) != nil {
		t.Error("a session opened later waits")
	}
}

func TestALogFileTakesBothStreams(t *testing.T) {
	h := hub(t)
	path := filepath.Join(t.TempDir(), "logs", "c.log")
	s := open(t, h, Config{Stdout: "file://" + path, Stderr: "file://" + path})
	for _, id := range []string{s.Stdout, s.Stderr} {
		conn := dial(t, h, id)
		_, _ = conn.Write([]byte("line\n"))
		conn.Close()
	}
	if err := s.Wait(patience); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "line\nline\n" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestALoggingProgramGetsBothStreamsAndTheirOwner(t *testing.T) {
	h := hub(t)
	dir := t.TempDir()
	program := filepath.Join(dir, "logger")
	script := "#!/bin/sh\nexec 5>&-\necho $CONTAINER_NAMESPACE/$CONTAINER_ID $@ >$2\ncat <&3 >>$2; cat <&4 >>$2\n"
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, "log")
	s := open(t, h, Config{Stdout: "binary://" + program + "?to=" + to, Stderr: "ignored"})
	for _, stream := range []struct{ id, text string }{{s.Stdout, "out\n"}, {s.Stderr, "err\n"}} {
		conn := dial(t, h, stream.id)
		_, _ = conn.Write([]byte(stream.text))
		conn.Close()
	}
	if err := s.Wait(patience); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if got, err := os.ReadFile(to); err != nil || string(got) != "ns/id to "+to+"\nout\nerr\n" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestALoggingProgramThatFailsIsAnError(t *testing.T) {
	for _, uri := range []string{"binary:///nonexistent/logger", "binary-v2:///bin/true"} {
		_, err := Open(t.Context(), hub(t), Config{Stdout: uri}, Owner{})
		if err == nil || !strings.Contains(err.Error(), "logging program") {
			t.Errorf("%s: %v", uri, err)
		}
	}
}

func TestAnUnknownSchemeIsNamed(t *testing.T) {
	_, err := Open(t.Context(), hub(t), Config{Stdout: "kafka://host/topic"}, Owner{})
	if !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "kafka://") {
		t.Fatalf("error %v", err)
	}
}

func TestAServedIdIsGoodAgainAndAgain(t *testing.T) {
	h := hub(t)
	id := h.Serve(func(conn *net.UnixConn) {
		_, _ = io.Copy(conn, conn)
		_ = conn.Close()
	})
	for range 3 {
		conn := dial(t, h, id)
		_, _ = conn.Write([]byte("hello"))
		_ = conn.CloseWrite()
		if got, err := io.ReadAll(conn); string(got) != "hello" {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// TestWhoSaysNothingKeepsNobodyOut though there is no limit to how often a guest may dial.
func TestWhoSaysNothingKeepsNobodyOut(t *testing.T) {
	h := hub(t)
	id := h.Serve(func(conn *net.UnixConn) { _ = conn.Close() })
	var silent []*net.UnixConn
	for range 4 * maxGreeting {
		conn, err := net.DialUnix("unix", nil, h.listener.Addr().(*net.UnixAddr))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		silent = append(silent, conn)
	}
	begun := time.Now()
	for range 3 {
		dial(t, h, id)
	}
	if took := time.Since(begun); took > greetTime/2 {
		t.Errorf("three streams took %v", took)
	}
	h.mu.Lock()
	n := len(h.greeters)
	h.mu.Unlock()
	if n > maxGreeting {
		t.Errorf("%d connections are waited for, more than %d", n, maxGreeting)
	}
	_ = silent[0].SetDeadline(time.Now().Add(patience))
	if _, err := silent[0].Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the first that said nothing: %v", err)
	}
}
