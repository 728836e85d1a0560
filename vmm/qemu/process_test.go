package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lone is a machine that is never run: its kernel is no kernel.
func lone(t testing.TB) Config {
	t.Helper()
	q := binary(t)
	kernel, err := os.CreateTemp(scratch, "kernel")
	must(t, err)
	must(t, kernel.Truncate(8192))
	must(t, kernel.Chmod(0o644))
	return Config{Binary: q, Arch: "amd64", VCPUs: 1, MemoryBytes: 64 << 20, Kernel: kernel}
}

func start(t testing.TB, c Config) *Process {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	p, err := Start(ctx, c)
	must(t, err)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func TestSignalsFromOutsideAreKills(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		p := start(t, lone(t))
		must(t, syscall.Kill(p.PID(), s))
		<-p.Done()
		if end := p.End(); end.Reason != Killed {
			t.Errorf("%v: ended with %v", s, end)
		}
		must(t, p.Close())
	}
}

// with changes QEMU's machine for amd64 for the length of a test.
func with(t *testing.T, change func(*board)) {
	old := boards["amd64"]
	t.Cleanup(func() { boards["amd64"] = old })
	b := old
	change(&b)
	boards["amd64"] = b
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		name  string
		board func(*board)
		with  func(*Config)
		want  []string
	}{
		{"no QEMU", nil, func(c *Config) { c.Binary.Path = "/nonesuch/qemu" }, []string{"start /nonesuch/qemu", "no such file"}},
		{"not QEMU", nil, func(c *Config) { c.Binary.Path = "/bin/true" }, []string{"QEMU died: with exit status 0"}},
		{"machine type", func(b *board) { b.machine = "nonesuch" }, nil, []string{"this QEMU is cut down", "unsupported machine type"}},
		{"firmware", func(b *board) { b.tcg += ",firmware=nonesuch" }, nil, []string{"firmware is missing", "qemu-system-data"}},
		{"memory", nil, func(c *Config) { c.MemoryBytes = 1 << 50 }, []string{"give it less", "exit status 1"}},
		{"vCPUs", nil, func(c *Config) { c.VCPUs, c.Binary.Version = 999, codeLocked }, []string{"give it fewer", "Invalid SMP CPUs 999"}},
		{"back end gone", nil, func(c *Config) {
			ours, theirs, err := Pair("vsock")
			must(t, err)
			must(t, ours.Close())
			c.Devices = []Device{{Kind: Vsock, Front: theirs}}
		}, []string{"back end did not answer"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := lone(t)
			if c.board != nil {
				with(t, c.board)
			}
			if c.with != nil {
				c.with(&cfg)
			}
			p, err := Start(t.Context(), cfg)
			if err == nil {
				_ = p.Close()
				t.Fatal("it starts")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q", err, want)
				}
			}
		})
	}
}

func TestStartDoesNotWaitForASilentBackEndForEver(t *testing.T) {
	cfg := lone(t)
	ours, theirs, err := Pair("vsock")
	must(t, err)
	defer ours.Close()
	cfg.Devices = []Device{{Kind: Vsock, Front: theirs}}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := Start(ctx, cfg); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "each of the 1 vhost-user back ends") {
		t.Errorf("got %v", err)
	}
}

func TestQEMUIsConfined(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("namespaces of its own need root")
	}
	p := start(t, lone(t))
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	must(t, err)
	for _, want := range []string{
		"Seccomp:\t2\n", "NoNewPrivs:\t1\n", "CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n", "CapBnd:\t0000000000000000\n",
	} {
		if !strings.Contains(string(status), want) {
			t.Errorf("no %q in\n%s", want, status)
		}
	}
	for _, ns := range []string{"pid", "net", "ipc", "uts"} {
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", p.PID(), ns))
		must(t, err)
		ours, err := os.Readlink("/proc/self/ns/" + ns)
		must(t, err)
		if theirs == ours {
			t.Errorf("its %s namespace is ours", ns)
		}
	}
}

// parentVariable makes the test binary a parent that is there to be killed.
const parentVariable = "HUSK_TEST_QEMU_PARENT"

// parent starts a QEMU, says its process id, and waits to be killed.
func parent() {
	kernel, err := os.Open(os.Getenv(parentVariable))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	q, err := Find("amd64", "")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	cfg := Config{Binary: q, Arch: "amd64", VCPUs: 1, MemoryBytes: 64 << 20, Kernel: kernel}
	p, err := Start(context.Background(), cfg)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(p.PID())
	select {}
}

func TestQEMUDiesWithItsParent(t *testing.T) {
	cfg := lone(t)
	defer cfg.close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), parentVariable+"="+cfg.Kernel.Name())
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("the parent says %q", line)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(poll, int(patience.Milliseconds())); err != nil || n != 1 {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		t.Fatalf("QEMU outlives its parent: %v", err)
	}
}

// left counts what a process leaves behind in this one.
func left(t *testing.T) (fds, goroutines int, children string) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	tasks, err := os.ReadDir("/proc/self/task")
	must(t, err)
	for _, task := range tasks { // QEMU is a child of the thread that started it
		c, _ := os.ReadFile("/proc/self/task/" + task.Name() + "/children")
		children += string(c)
	}
	return len(list), runtime.NumGoroutine(), children
}

func TestNothingIsLeft(t *testing.T) {
	runs := []func(){
		func() { must(t, start(t, lone(t)).Close()) },
		func() { // fails on the way
			c := lone(t)
			c.VCPUs, c.Binary.Version = 999, codeLocked
			_, err := Start(t.Context(), c)
			if err == nil {
				t.Error("it starts")
			}
		},
		func() { // fails at once
			c := lone(t)
			c.Binary.Path = "/nonesuch"
			_, _ = Start(t.Context(), c)
		},
		func() { // fails its check
			c := lone(t)
			c.VCPUs = 0
			_, _ = Start(t.Context(), c)
		},
	}
	for _, run := range runs {
		run() // once for what stays: the poller's descriptors
	}
	fds, goroutines, _ := left(t)
	for range 3 {
		for _, run := range runs {
			run()
		}
	}
	// A goroutine may be on its last instruction still.
	var f, g int
	var children string
	for range 1000 {
		if f, g, children = left(t); f <= fds && g <= goroutines && children == "" {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("%d descriptors were %d, %d goroutines were %d, children %q", f, fds, g, goroutines, children)
}
