package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// These tests boot a real kernel in the installed QEMU. HUSK_TEST_KERNEL names the kernel; without it they skip.
// HUSK_TEST_ACCEL=kvm boots under KVM instead of emulation. The guest's init is internal/testguest.

// patience is how long a guest may take for anything; a busy host takes its time.
const patience = 2 * time.Minute

// scratch is a directory for the whole run.
var scratch string

func TestMain(m *testing.M) {
	if os.Getenv(parentVariable) != "" {
		parent()
	}
	var err error
	if scratch, err = os.MkdirTemp("", "husk-qemu-test-"); err == nil {
		err = os.Chmod(scratch, 0o755) // for a QEMU that is another user
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(scratch)
	os.Exit(code)
}

var initramfs = sync.OnceValues(func() (string, error) {
	program, archive := filepath.Join(scratch, "init"), filepath.Join(scratch, "initramfs")
	for _, args := range [][]string{
		{"build", "-o", program, "./internal/testguest"},
		{"run", "github.com/huskvm/husk/guest-agent/cmd/mkinitramfs", "-init", program, "-o", archive},
	} {
		cmd := exec.Command("go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go %s: %w: %s", args[0], err, out)
		}
	}
	return archive, nil
})

// transcript is a guest's console.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // has room for one
	done chan struct{}
}

func record(console *os.File) *transcript {
	c := &transcript{more: make(chan struct{}, 1), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		buf := make([]byte, 4096)
		for {
			n, err := console.Read(buf)
			c.mu.Lock()
			c.text.Write(buf[:n])
			c.mu.Unlock()
			select {
			case c.more <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	}()
	return c
}

func (c *transcript) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.ReplaceAll(c.text.String(), "\r", "")
}

// await waits until the console has text.
func (c *transcript) await(t testing.TB, text string) {
	t.Helper()
	if c.when(text, time.Time{}) == 0 {
		t.Fatalf("no %q on the console:\n%s", text, c)
	}
}

// when waits until the console has text, and returns the time since began; 0 if it does not come.
func (c *transcript) when(text string, began time.Time) time.Duration {
	for deadline := time.After(patience); ; {
		if strings.Contains(c.String(), text) {
			return time.Since(began)
		}
		select {
		case <-c.more:
		case <-c.done:
			if !strings.Contains(c.String(), text) {
				return 0
			}
		case <-deadline:
			return 0
		}
	}
}

// config is of a guest that does what, and the other end of its console.
func config(t testing.TB, what string) (Config, *os.File) {
	t.Helper()
	kernel := os.Getenv("HUSK_TEST_KERNEL")
	if kernel == "" {
		t.Skip("HUSK_TEST_KERNEL names no kernel")
	}
	q := binary(t)
	archive, err := initramfs()
	must(t, err)
	c := Config{Binary: q, Arch: "amd64", KVM: os.Getenv("HUSK_TEST_ACCEL") == "kvm", VCPUs: 2, MemoryBytes: 256 << 20}
	c.Kernel, err = os.Open(kernel)
	must(t, err)
	c.Initramfs, err = os.Open(archive)
	must(t, err)
	var words []string
	for _, w := range KernelWords("amd64", c.KVM) {
		words = append(words, w.Word)
	}
	c.Cmdline = strings.Join(append(words, "husk.test="+what), " ")
	var console *os.File
	console, c.Console, err = Pair("console")
	must(t, err)
	t.Cleanup(func() { _ = console.Close() })
	return c, console
}

// boot starts a guest and lets it run.
func boot(t testing.TB, what string, with ...func(*Config)) (*Process, *transcript, *os.File) {
	t.Helper()
	c, console := config(t, what)
	for _, f := range with {
		f(&c)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	p, err := Start(ctx, c)
	must(t, err)
	t.Cleanup(func() { _ = p.Close() })
	said := record(console)
	must(t, p.Run(ctx))
	return p, said, console
}

func ends(t testing.TB, p *Process, said *transcript) End {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(patience):
		t.Fatalf("the guest does not end:\n%s", said)
	}
	<-said.done
	return p.End()
}

func TestAGuestComesUpAndRestarts(t *testing.T) {
	processors := 0
	p, said, _ := boot(t, "report", func(c *Config) { processors = c.Processors() })
	if end := ends(t, p, said); end.Reason != Reset {
		t.Errorf("ended with %v", end)
	}
	for _, want := range []string{
		"virtio_mmio.device=512@0x", // QEMU's own addition
		fmt.Sprintf("guest: cpus=%d\n", processors),
		"guest: virtio 0x0003\n", "guest: virtio 0x0004\n", "guest: virtio 0x0005\n", // console, entropy, balloon
		fmt.Sprintf("guest: year=%d\n", time.Now().Year()),
		"guest: done\n",
	} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("the console lacks %q", want)
		}
	}
	if counterRate() > 0 && !strings.Contains(said.String(), "guest: clock=tsc") && !strings.Contains(said.String(), "guest: clock=kvm-clock") {
		t.Error("the guest has no clock better than its tick")
	}
	if t.Failed() {
		t.Logf("console:\n%s", said)
	}
}

func TestAPanicIsAReset(t *testing.T) {
	p, said, _ := boot(t, "panic")
	if end := ends(t, p, said); end.Reason != Reset || !strings.Contains(said.String(), "Kernel panic - not syncing") {
		t.Errorf("ended with %v:\n%s", end, said)
	}
}

func TestTheConsoleTakesInput(t *testing.T) {
	_, said, console := boot(t, "echo")
	said.await(t, "guest: up")
	_, err := console.WriteString("hello\n")
	must(t, err)
	said.await(t, `guest: heard "hello"`)
}

func TestAGuestDoesNotRunBeforeItIsLet(t *testing.T) {
	c, console := config(t, "stay")
	p, err := Start(t.Context(), c)
	must(t, err)
	t.Cleanup(func() { _ = p.Close() })
	i, err := p.Info(t.Context())
	must(t, err)
	if i.Status != "prelaunch" || len(i.Threads) != c.Processors() || i.MemoryBytes != 256<<20 {
		t.Errorf("got %+v", i)
	}
	must(t, p.Close())
	said := record(console)
	<-said.done
	if said.String() != "" {
		t.Errorf("it said %q", said)
	}
}

func TestAPausedGuestSaysNothingAndGoesOn(t *testing.T) {
	p, said, _ := boot(t, "stay")
	said.await(t, "guest: tick 1\n")
	for round := range 3 {
		must(t, p.Pause())
		must(t, p.Pause()) // no harm
		for _, task := range tasks(t, p.PID()) {
			if state := stateOf(t, task); state != "T" {
				t.Fatalf("%s of a paused guest is in state %s", task, state)
			}
		}
		must(t, p.Resume())
		said.await(t, fmt.Sprintf("guest: tick %d\n", 10*(round+1)))
	}
	must(t, p.Close())
	must(t, p.Close())
	if end := p.End(); end.Reason != Stopped {
		t.Errorf("ended with %v", end)
	}
	if err := p.Pause(); !errors.Is(err, ErrGone) {
		t.Errorf("a guest that is gone is paused: %v", err)
	}
	must(t, p.Kill())
}

func TestTheEndsOfTwoGuestsDoNotMix(t *testing.T) {
	a, saidA, _ := boot(t, "report")
	b, saidB, _ := boot(t, "stay")
	saidB.await(t, "guest: tick 0\n")
	must(t, b.Kill())
	if end := ends(t, b, saidB); end.Reason != Stopped {
		t.Errorf("the one that was killed ended with %v", end)
	}
	if end := ends(t, a, saidA); end.Reason != Reset {
		t.Errorf("the one that restarts ended with %v", end)
	}
}

// tasks are the stat files of a process's threads.
func tasks(t *testing.T, pid int) []string {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	must(t, err)
	return files
}

// stateOf is one letter, as in proc(5).
func stateOf(t *testing.T, stat string) string {
	t.Helper()
	text, err := os.ReadFile(stat)
	must(t, err)
	_, rest, _ := strings.Cut(string(text), ") ")
	return rest[:1]
}
