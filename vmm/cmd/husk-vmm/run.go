package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/backend"
	"github.com/huskvm/husk/vmm/machine"
	"github.com/huskvm/husk/vmm/marks"
	"github.com/huskvm/husk/vmm/virtio/vsock"
)

// run is `husk-vmm run`: the guest's console is this terminal, and its end is the program's.
func run(args []string, list *marks.List, log *slog.Logger) error {
	set := flag.NewFlagSet("husk-vmm run", flag.ExitOnError)
	var (
		kernel    = set.String("kernel", "", "kernel: an ELF or a bzImage (required)")
		initramfs = set.String("initramfs", "", "initramfs")
		cmdline   = set.String("cmdline", "", "words to append to the kernel's command line")
		kind      = set.String("vmm", string(backend.Auto), fmt.Sprintf("what runs the guest: one of %q", backend.Kinds))
		qemu      = set.String("qemu", "", "path of QEMU's binary; empty looks for it")
		vcpus     = set.Int("vcpus", 1, "number of vCPUs")
		memory    = set.Uint64("memory", 256, "memory in MiB")
		serial    = set.Bool("serial", false, "a serial console from the kernel's first message on, instead of the virtio one")
		vsockDir  = set.String("vsock", "", "directory of the vsock sockets: vsock.sock, and vsock.sock_P for the guest's dials")
		timing    = set.Bool("timing", false, "print the boot marks and the exits at the end")
		shares    listFlag
		disks     listFlag
	)
	set.Var(&shares, "share", "name=path[:ro] of a directory or file in the file system with the tag husk; repeatable")
	set.Var(&disks, "disk", "serial=path[:ro] of a block device or file; repeatable")
	if err := set.Parse(args); err != nil {
		return err
	}
	if *kernel == "" || set.NArg() > 0 {
		set.Usage()
		os.Exit(2)
	}
	cfg := machine.Config{VCPUs: *vcpus, Memory: *memory << 20, Cmdline: *cmdline, Log: log, Marks: list}
	if *serial {
		cfg.Serial = os.Stdout
	} else {
		cfg.Console, cfg.Input = os.Stdout, os.Stdin
	}
	var err error
	open := func(path string, flags int) *os.File {
		f, openErr := os.OpenFile(path, flags, 0)
		err = errors.Join(err, openErr)
		return f
	}
	cfg.Kernel = open(*kernel, os.O_RDONLY)
	if *initramfs != "" {
		cfg.Initramfs = open(*initramfs, os.O_RDONLY)
	}
	for _, s := range shares {
		cfg.Shares = append(cfg.Shares, machine.Share{Name: s.name, File: open(s.path, unix.O_PATH), ReadOnly: s.readOnly})
	}
	for _, d := range disks {
		flags := os.O_RDWR
		if d.readOnly {
			flags = os.O_RDONLY
		}
		cfg.Disks = append(cfg.Disks, machine.Disk{Serial: d.name, File: open(d.path, flags), ReadOnly: d.readOnly})
	}
	if *vsockDir != "" {
		cfg.Vsock = &machine.Vsock{GuestCID: 3, Host: vsock.UnixHost(filepath.Join(*vsockDir, vsock.SocketName))}
	}
	if err != nil {
		return err
	}
	choice, err := machine.Choose(&cfg, backend.Wish{Kind: backend.Kind(*kind), QEMU: *qemu})
	if err != nil {
		return err
	}
	log.Info("backend", "kind", choice.Kind, "reason", choice.Reason)
	m, err := machine.New(cfg)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := m.Start(); err != nil {
		return errors.Join(err, m.Close())
	}
	if *vsockDir != "" {
		l, err := listen(filepath.Join(*vsockDir, vsock.SocketName))
		if err != nil {
			return errors.Join(err, m.Close())
		}
		go func() {
			if err := m.ServeVsock(ctx, l); err != nil {
				log.Warn("vsock", "error", err)
			}
		}()
	}
	select {
	case <-m.Done():
		fmt.Fprintln(os.Stderr, "husk-vmm:", m.End())
	case <-ctx.Done():
	}
	if *timing {
		printTiming(list, m.Exits())
	}
	return m.Close()
}

func listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", path)
}

func printTiming(list *marks.List, exits map[string]uint64) {
	all := list.All()
	for _, m := range all {
		fmt.Fprintf(os.Stderr, "%10.3f ms  %s\n", float64(m.Nanoseconds-all[0].Nanoseconds)/1e6, m.Name)
	}
	for reason, n := range exits {
		fmt.Fprintf(os.Stderr, "%10d exits  %s\n", n, reason)
	}
}

// listFlag is a repeatable flag of the form name=path[:ro].
type listFlag []struct {
	name, path string
	readOnly   bool
}

func (l *listFlag) String() string { return "" }

func (l *listFlag) Set(v string) error {
	name, path, ok := strings.Cut(v, "=")
	if !ok || name == "" || path == "" {
		return errors.New("want name=path")
	}
	path, readOnly := strings.CutSuffix(path, ":ro")
	*l = append(*l, struct {
		name, path string
		readOnly   bool
	}{name, path, readOnly})
	return nil
}
