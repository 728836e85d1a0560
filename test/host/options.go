package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/huskvm/husk/test/host/internal/qemu"
	"github.com/huskvm/husk/test/host/internal/wire"
)

// options is what the command line says.
type options struct {
	command     []string
	dir         string
	env         []string
	cgroup      string
	init        string
	append      string
	kernel      string
	accel       qemu.Accel
	memoryMiB   int
	cpus        int
	shares      []share
	timeout     time.Duration
	interactive bool
	verbose     bool
	timing      bool
}

// share is a directory of the machine at a place of its own in the host.
type share struct {
	path       string
	tag        string
	mountpoint string
	writable   bool
}

const usage = `usage: host [flags] -- command [argument…]

Boots a virtual machine with working KVM whose files are this machine's, runs the command in it and exits with its
status. 124 means out of time, 125 that the host itself did not work.

`

func parse(args []string, out io.Writer) (*options, error) {
	o := &options{accel: qemu.Auto}
	flags := flag.NewFlagSet("host", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Usage = func() {
		fmt.Fprint(out, usage)
		flags.PrintDefaults()
	}
	flags.StringVar(&o.cgroup, "cgroup", wire.CgroupV2, "cgroup `layout`: v1, hybrid or v2")
	flags.StringVar(&o.init, "init", wire.InitNone, "`program` that is PID 1: none (the host's own) or systemd")
	flags.StringVar(&o.append, "append", "", "more `words` for the kernel's command line")
	flags.StringVar(&o.kernel, "kernel", "", "kernel `image` named vmlinuz-<release> (default: the newest in /boot)")
	flags.IntVar(&o.memoryMiB, "memory", 4096, "memory in `MiB`")
	flags.IntVar(&o.cpus, "cpus", 2, "`number` of processors")
	flags.StringVar(&o.dir, "dir", "", "working `directory` of the command (default: the caller's)")
	flags.DurationVar(&o.timeout, "timeout", 0, "`time` after which all is killed; 0 for none (default: 10m, interactive none)")
	flags.BoolVar(&o.interactive, "interactive", false, "pass stdin on, and wire the terminal through if there is one")
	flags.BoolVar(&o.verbose, "v", false, "show the kernel's console")
	flags.BoolVar(&o.timing, "timing", false, "say at the end how long each part took")
	flags.Func("accel", "`how` to run it: auto, kvm or tcg (default auto)", func(s string) (err error) {
		o.accel, err = qemu.ParseAccel(s)
		return err
	})
	flags.Func("env", "`NAME=value` for the command, or NAME to pass the caller's on; may be repeated", func(s string) error {
		if s == "" || strings.HasPrefix(s, "=") {
			return errors.New("no name")
		}
		if !strings.Contains(s, "=") {
			value, ok := os.LookupEnv(s)
			if !ok {
				return nil
			}
			s += "=" + value
		}
		o.env = append(o.env, s)
		return nil
	})
	flags.Func("share", "`dir:tag:mountpoint[:rw]`, a directory of the machine at another place; may be repeated", func(s string) error {
		sh, err := parseShare(s)
		if err != nil {
			return err
		}
		o.shares = append(o.shares, sh)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	o.command = flags.Args()
	timeoutGiven := false
	flags.Visit(func(f *flag.Flag) { timeoutGiven = timeoutGiven || f.Name == "timeout" })
	if !timeoutGiven && !o.interactive {
		o.timeout = 10 * time.Minute
	}
	return o, o.check()
}

func (o *options) check() error {
	switch {
	case len(o.command) == 0:
		return errors.New("no command given; see host -help")
	case !slices.Contains([]string{wire.CgroupV1, wire.CgroupHybrid, wire.CgroupV2}, o.cgroup):
		return fmt.Errorf("unknown cgroup layout %q; there are v1, hybrid and v2", o.cgroup)
	case o.init != wire.InitNone && o.init != wire.InitSystemd:
		return fmt.Errorf("unknown init %q; there are none and systemd", o.init)
	case o.memoryMiB < 512:
		return fmt.Errorf("memory of %d MiB is too little; the host itself needs 512", o.memoryMiB)
	case o.cpus < 1 || o.cpus > 64:
		return fmt.Errorf("%d processors are not possible; give 1 to 64", o.cpus)
	case o.timeout < 0:
		return fmt.Errorf("timeout %v is negative", o.timeout)
	}
	tags := map[string]bool{rootTag: true}
	for _, s := range o.shares {
		if tags[s.tag] {
			return fmt.Errorf("share tag %q is used twice or reserved", s.tag)
		}
		tags[s.tag] = true
	}
	if o.dir == "" {
		dir, err := os.Getwd()
		if err != nil {
			return fmt.Errorf("find working directory: %w", err)
		}
		o.dir = dir
	}
	return nil
}

func parseShare(s string) (share, error) {
	parts := strings.Split(s, ":")
	if len(parts) == 4 && parts[3] != "rw" && parts[3] != "ro" || len(parts) < 3 || len(parts) > 4 {
		return share{}, fmt.Errorf("%q is not dir:tag:mountpoint[:rw]", s)
	}
	sh := share{path: parts[0], tag: parts[1], mountpoint: parts[2], writable: len(parts) == 4 && parts[3] == "rw"}
	// The kernel has 31 bytes for a 9p tag.
	if sh.tag == "" || len(sh.tag) > 31 {
		return share{}, fmt.Errorf("tag %q must have 1 to 31 characters", sh.tag)
	}
	if !filepath.IsAbs(sh.mountpoint) {
		return share{}, fmt.Errorf("mountpoint %q is not absolute", sh.mountpoint)
	}
	path, err := filepath.Abs(sh.path)
	if err != nil {
		return share{}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return share{}, err
	}
	if !info.IsDir() {
		return share{}, fmt.Errorf("%s is not a directory", path)
	}
	sh.path = path
	return sh, nil
}
