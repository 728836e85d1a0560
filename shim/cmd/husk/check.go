package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/shim/internal/config"
	"github.com/huskvm/husk/shim/internal/hostcgroup"
	"github.com/huskvm/husk/shim/internal/sandbox"
)

// check reports on everything that a start needs, and fails if one thing is missing.
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
	failed := false
	report := func(what string, err error, detail string) {
		mark := "ok     "
		if err != nil {
			mark, detail, failed = "MISSING", err.Error(), true
		}
		fmt.Fprintf(h.out, "%s  %-13s  %s\n", mark, what, detail)
	}
	c, err := config.Load(source)
	if err != nil {
		report("configuration", err, "")
		return errors.New("this host cannot run VMs as it is")
	}
	detail := "none found: all defaults"
	if c.Path != "" {
		detail = c.Path
	}
	report("configuration", nil, detail)
	shim := filepath.Join(filepath.Dir(self), "containerd-shim-husk-v2")
	_, err = os.Stat(shim)
	report("shim", err, shim)
	report("vmm", executable(c.VMM), c.VMM)
	for name, err := range sandbox.CheckAssets(c) {
		report(name, err, map[string]string{"kernel": c.Kernel, "initramfs": c.Initramfs, "kvm": "/dev/kvm"}[name])
	}
	layout := "v1 or hybrid"
	if hostcgroup.Unified() {
		layout = "v2"
	}
	report("cgroups", nil, layout)
	if failed {
		return errors.New("this host cannot run VMs as it is")
	}
	return nil
}

func executable(path string) error {
	if err := unix.Access(path, unix.X_OK); err != nil {
		return &os.PathError{Op: "execute", Path: path, Err: err}
	}
	return nil
}
