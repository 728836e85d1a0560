// Command demo shows husk at work, each line a real `ctr run --runtime io.containerd.husk.v2`, and exits with 0 only
// if all of it held. `make demo` builds what it needs and starts it. It needs root: without, it asks sudo.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/huskvm/husk/test/rig"
	"github.com/huskvm/husk/vmm/kvm"
)

func main() {
	status, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
	os.Exit(status)
}

func run() (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	tools := filepath.Dir(self)
	if os.Getuid() != 0 {
		return again(exec.Command("sudo", self))
	}
	if err := kvm.Probe("/dev/kvm"); err != nil {
		fmt.Printf("This machine has no KVM to use (%v).\nSo QEMU runs the virtual machines, in software: slower, and just as real.\n\n", err)
	}
	dir, err := os.MkdirTemp("", "husk-demo")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), 14*time.Minute)
	defer cancel()
	r, err := rig.Start(ctx, rig.Config{
		Containerd: filepath.Join(tools, "containerd"),
		Bin:        filepath.Dir(tools),
		ImageTar:   filepath.Join(tools, "image.tar"),
		Dir:        dir,
		HuskConfig: fmt.Sprintf("default_memory = \"256MiB\"\ntimeline = %q\n", filepath.Join(dir, "timeline")),
	})
	if err != nil {
		return 1, err
	}
	s := &show{ctx: ctx, rig: r, dir: dir, bin: filepath.Dir(tools)}
	s.everything()
	if err := r.Stop(); err != nil {
		return 1, err
	}
	if s.failed > 0 {
		if tail, err := r.LogTail(30); err == nil {
			fmt.Printf("\nThe last of containerd's log:\n%s\n", tail)
		}
		fmt.Printf("\n%d of %d did not hold.\n", s.failed, s.shown)
		return 1, nil
	}
	fmt.Printf("\nAll %d held. Try next:\n\n    make host-shell\n\nand there: see \"A shell to try things in\" in the README.\n", s.shown)
	return 0, nil
}

// again runs the demo as root and takes its status over.
func again(cmd *exec.Cmd) (int, error) {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// show runs and prints one thing after the other.
type show struct {
	ctx    context.Context
	rig    *rig.Rig
	dir    string
	bin    string
	shown  int
	failed int
}

// say prints one line of the demo: what was done, what came of it, and whether that is right.
func (s *show) say(what, got string, ok bool) {
	mark := "ok  "
	if !ok {
		mark = "FAIL"
		s.failed++
	}
	s.shown++
	fmt.Printf("%s  %-58s %s\n", mark, what, strings.TrimSpace(got))
}

// run is one container, with the command as a person would type it.
func (s *show) run(what string, check func(rig.Result) (string, bool), args ...string) {
	res, err := s.rig.Run(s.ctx, fmt.Sprint("demo-", s.shown), nil, args...)
	if err != nil {
		s.say(what, err.Error(), false)
		return
	}
	got, ok := check(res)
	if !ok {
		got = fmt.Sprintf("%s [status %d, stdout %.200q, stderr %.500q]", got, res.Status, res.Stdout, res.Stderr)
	}
	s.say(what, got, ok)
}

// status expects an exit status, and a text on stderr.
func status(want int, stderr string) func(rig.Result) (string, bool) {
	return func(res rig.Result) (string, bool) {
		got := fmt.Sprint("→ ", res.Status)
		if stderr != "" {
			got += "  " + strings.TrimSpace(res.Stderr)
		}
		return got, res.Status == want && strings.Contains(res.Stderr, stderr)
	}
}
