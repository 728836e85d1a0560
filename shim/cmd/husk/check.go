package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/shim/internal/config"
	"github.com/huskvm/husk/shim/internal/sandbox"
	"github.com/huskvm/husk/vmm/backend"
	"github.com/huskvm/husk/vmm/qemu"
)

// report is a table of findings, and whether a container could run after all of them.
type report struct {
	out    io.Writer
	failed bool
}

// ok, note and problem add a line. A note is no hindrance.
func (r *report) ok(what, detail string)   { r.line("ok", what, detail) }
func (r *report) note(what, detail string) { r.line("note", what, detail) }
func (r *report) problem(what string, err error) {
	r.failed = true
	r.line("problem", what, err.Error())
}

func (r *report) line(state, what, detail string) {
	fmt.Fprintf(r.out, "%-7s  %-13s  %s\n", state, what, detail)
}

// try adds a line for what must work.
func (r *report) try(what string, err error, detail string) {
	if err != nil {
		r.problem(what, err)
		return
	}
	r.ok(what, detail)
}

var errUnfit = errors.New("no container can run in a VM on this host as it is")

// check reports on everything that a start needs, and fails if no container could run.
func check(h host, args []string) error {
	source := config.Source{Getenv: os.Getenv}
	if len(args) > 0 {
		source.Path = args[0]
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find husk's own binary: %w", err)
	}
	source.Executable = self
	r := &report{out: h.out}
	c, err := config.Load(source)
	if err != nil {
		r.problem("configuration", err)
		return errUnfit
	}
	detail := "none found: all defaults"
	if c.Path != "" {
		detail = c.Path
	}
	r.ok("configuration", detail)
	r.try("vmm", executable(c.VMM), c.VMM)
	for name, err := range sandbox.CheckAssets(c) {
		r.try(name, err, map[string]string{"kernel": c.Kernel, "initramfs": c.Initramfs}[name])
	}
	checkBackend(r, c)
	checkCgroups(r)
	checkEngine(r, filepath.Join(filepath.Dir(self), "containerd-shim-husk-v2"))
	if r.failed {
		return errUnfit
	}
	return nil
}

// checkBackend shows what could run guests, and what will.
func checkBackend(r *report, c *config.Config) {
	wish := backend.Wish{Kind: backend.Kind(c.Backend), QEMU: c.QEMU}
	if err := wish.Usable(); err == nil {
		r.ok("kvm", "/dev/kvm opens, has what husk needs, and hardware behind it")
	} else {
		r.note("kvm", err.Error())
	}
	if q, err := qemu.Find(runtime.GOARCH, c.QEMU); err == nil {
		r.ok("qemu", fmt.Sprintf("%s, version %s", q.Path, q.Version))
	} else {
		r.note("qemu", err.Error())
	}
	choice, err := backend.Choose(wish)
	r.try("backend", err, fmt.Sprintf("%s: %s", choice.Kind, choice.Reason))
}

func executable(path string) error {
	if err := unix.Access(path, unix.X_OK); err != nil {
		return &os.PathError{Op: "execute", Path: path, Err: err}
	}
	return nil
}
