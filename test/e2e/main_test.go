// Package e2e drives husk as its users do: through containerd, with real microVMs. Everything here needs root.
// `make e2e` runs it on KVM, in the KVM test host, with the oldest and the newest containerd, and on QEMU right here.
package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/huskvm/husk/test/rig"
)

var (
	containerd  = flag.String("containerd", "", "directory of containerd and ctr; empty is the distribution's")
	bin         = flag.String("bin", "", "directory of husk's programs and assets")
	image       = flag.String("image", "", "the test image's tar")
	debianTar   = flag.String("debian", "", "the Debian image's tar, with its repository beside it; empty skips the tests that need it")
	posix       = flag.String("posix", "", "the program of test/posix; empty skips its test")
	nodeTar     = flag.String("node-image", "", "the image that installs husk on nodes; empty skips its test")
	backend     = flag.String("backend", "auto", "what runs the guests: kvm, qemu or auto")
	vhostNet    = flag.String("vhost-net", "off", "who carries the packets on KVM: auto (the host's kernel) or off (the VMM)")
	runtimetest = flag.String("runtimetest", "", "runtimetest of opencontainers/runtime-tools; without it, its tests are skipped")
	oci         = flag.Bool("oci", true, "run the tests of the OCI specification's fields: they depend on containerd in nothing")
	driver      = flag.String("driver", "cgroupfs", "who makes the cgroups: cgroupfs, or systemd")
	inARow      = flag.Int("in-a-row", 10, "how many containers one after the other must leave nothing behind")
	megabytes   = flag.Int("megabytes", 16, "how much is carried over a network at a time")

	shared *rig.Rig
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == guestWord {
		os.Exit(guestMain(os.Args[2:]))
	}
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if *bin == "" || *image == "" {
		fmt.Fprintln(os.Stderr, "e2e: -bin and -image are required; use make e2e")
		return 2
	}
	if *driver == "systemd" {
		rig.Cgroup = func(id string) string { return "system.slice:husk:" + id }
	}
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	shared, err = rig.Start(context.Background(), rig.Config{
		Containerd: *containerd, Bin: *bin, ImageTar: *image, Dir: dir, HuskConfig: configuration(""),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	before, err := places().Look()
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	code := m.Run()
	if err := before.Gone(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: after all tests:", err)
		code = 1
	} else {
		fmt.Println("e2e: all containers together have left nothing")
	}
	if code != 0 {
		tail, _ := shared.LogTail(60)
		fmt.Fprintf(os.Stderr, "--- the last of containerd's log\n%s\n---\n", tail)
	}
	if err := shared.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: stop containerd:", err)
		return 1
	}
	return code
}

// configuration is what every test starts with, and extra: a VM as small as a test needs.
func configuration(extra string) string {
	return fmt.Sprintf("vmm = %q\nvhost_net = %q\ndefault_memory = \"256MiB\"\n%s", *backend, *vhostNet, extra)
}

var serial atomic.Int32

// newID returns an id that no other container has had: the test's name as far as containerd takes it.
func newID(t *testing.T) string {
	words := strings.FieldsFunc(strings.ToLower(t.Name()), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
	name := strings.TrimRight(fmt.Sprintf("%.40s", strings.Join(words, "-")), "-")
	return fmt.Sprintf("%s-%d", name, serial.Add(1))
}

// deadline bounds one container's life in a test; emulated machines are slow.
const deadline = 2 * time.Minute

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	return ctx
}

// ctrRun is `ctr run --rm` of husk to its end.
func ctrRun(t *testing.T, flags []string, args ...string) rig.Result {
	t.Helper()
	res, err := shared.Run(testContext(t), newID(t), flags, args...)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// ctr is any call of ctr to its end, which must be a success.
func ctr(t *testing.T, args ...string) rig.Result {
	t.Helper()
	res, err := rig.Exec(shared.Ctr(testContext(t), args...))
	if err != nil {
		t.Fatal(err)
	}
	if res.Status != 0 {
		t.Fatalf("ctr %s: status %d: %s", strings.Join(args, " "), res.Status, res.Stderr)
	}
	return res
}

// needFlag skips the test, with the reason, where ctr run is too old to have a flag.
func needFlag(t *testing.T, flag string) {
	t.Helper()
	if !strings.Contains(output(t, shared.Ctr(testContext(t)).Path, "run", "--help"), " "+flag+" ") {
		t.Skipf("ctr run of this containerd has no %s", flag)
	}
}

// background is a container that runs until the test ends or kills it.
type background struct {
	id   string
	done chan struct{}
	res  rig.Result
	err  error
}

// start runs a container in the background and waits until its task is running. It is killed and removed at
// the end of the test, if it is still there.
func start(t *testing.T, flags []string, args ...string) *background {
	t.Helper()
	b := launch(t, flags, args...)
	b.awaitStart(t)
	return b
}

// startSpec is start of a container of a specification.
func startSpec(t *testing.T, s *specs.Spec) *background {
	t.Helper()
	args := bare(t, rig.Runtime, s)
	b := &background{id: args[len(args)-1], done: make(chan struct{})}
	b.launch(t, shared.Ctr(context.Background(), args...))
	b.awaitStart(t)
	return b
}

func (b *background) awaitStart(t *testing.T) {
	t.Helper()
	eventually(t, "task of "+b.id+" is running", func() bool {
		select {
		case <-b.done:
			t.Fatalf("%s ended: status %d, %v: %s", b.id, b.res.Status, b.err, b.res.Stderr)
		default:
		}
		return taskStatus(t, b.id) == "RUNNING"
	})
}

// detached runs a container that outlives the ctr that started it. It is removed at the end of the test, if it is
// still there.
func detached(t *testing.T, args ...string) (id string) {
	t.Helper()
	return detachedWith(t, nil, args...)
}

// detachedWith is detached with flags for ctr run.
func detachedWith(t *testing.T, flags []string, args ...string) (id string) {
	t.Helper()
	id = newID(t)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		_ = shared.Ctr(ctx, "task", "rm", "-f", id).Run()
		_ = shared.Ctr(ctx, "container", "rm", id).Run()
	})
	run := rig.RunArgs(id, append([]string{"--detach"}, flags...), args...)
	ctr(t, slices.DeleteFunc(run, func(word string) bool { return word == "--rm" })...)
	return id
}

// launch is start without the wait.
func launch(t *testing.T, flags []string, args ...string) *background {
	t.Helper()
	b := &background{id: newID(t), done: make(chan struct{})}
	b.launch(t, shared.Ctr(context.Background(), rig.RunArgs(b.id, flags, args...)...))
	return b
}

// launch runs ctr's command, which runs the container.
func (b *background) launch(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	go func() {
		defer close(b.done)
		b.res, b.err = rig.Exec(cmd)
	}()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		_ = shared.Ctr(ctx, "task", "kill", "-s", "SIGKILL", b.id).Run()
		select {
		case <-b.done:
		case <-ctx.Done():
			_ = cmd.Process.Kill()
			t.Errorf("ctr run %s did not end after SIGKILL", b.id)
		}
		_ = shared.Ctr(ctx, "task", "rm", "-f", b.id).Run()
		_ = shared.Ctr(ctx, "container", "rm", b.id).Run()
	})
}

// wait is the end of the container.
func (b *background) wait(t *testing.T) rig.Result {
	t.Helper()
	select {
	case <-b.done:
	case <-time.After(deadline):
		t.Fatalf("%s does not end", b.id)
	}
	if b.err != nil {
		t.Fatal(b.err)
	}
	return b.res
}

// taskStatus is what ctr says of a task; empty when there is none.
func taskStatus(t *testing.T, id string) string {
	t.Helper()
	out, err := shared.Ctr(testContext(t), "task", "ls").Output()
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == id {
			return f[2]
		}
	}
	return ""
}

// taskPID is the host pid that containerd was given for a task.
func taskPID(t *testing.T, id string) string {
	t.Helper()
	for line := range strings.Lines(ctr(t, "task", "ls").Stdout) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == id {
			return f[1]
		}
	}
	t.Fatalf("no task %s", id)
	return ""
}

// eventually waits for a condition, for a minute at most.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("not so: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// output runs a host command that must succeed.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		t.Fatalf("%s: %v", name, err)
	}
	return string(out)
}
