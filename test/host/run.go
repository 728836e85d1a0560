package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/test/host/internal/guest"
	"github.com/huskvm/husk/test/host/internal/initramfs"
	"github.com/huskvm/husk/test/host/internal/kernel"
	"github.com/huskvm/husk/test/host/internal/qemu"
	"github.com/huskvm/husk/test/host/internal/wire"
)

const (
	rootTag  = "hostroot"
	hostname = "husk-host"

	bootDeadline     = 4 * time.Minute // emulation on a busy machine is slow, but a hang must not cost the whole timeout
	powerOffDeadline = 30 * time.Second
)

// run boots the host and runs the command. The status is the command's, or one of this program's with an error.
func run(o *options) (int, error) {
	timing := newTiming()
	term := openTerminal(o.interactive)
	defer term.restore()

	machine, image, archive, err := prepare(o, term)
	if err != nil {
		return statusHost, err
	}
	process, err := qemu.Start(machine, image, archive)
	if err != nil {
		return statusHost, err
	}
	defer process.Close()
	defer process.Kill()
	timing.at("qemu started")

	console := newConsole(process.Console, o.verbose)
	talk := newConversation(process.Port, timing)
	status, err := supervise(o, process, talk, term)
	term.restore()
	process.Kill()
	timing.at("powered off")
	ended := console.wait()
	if err != nil && ended && status <= statusHost && !errors.Is(err, errSetUp) {
		console.printTail(os.Stderr)
	}
	if o.timing || o.verbose {
		timing.print(os.Stderr)
	}
	return status, err
}

// prepare decides on kernel and accelerator, and builds the initramfs.
func prepare(o *options, term *terminal) (machine qemu.Machine, image, archive []byte, err error) {
	release, image, err := readKernel(o.kernel)
	if err != nil {
		return machine, nil, nil, err
	}
	accel, kvmModule, err := o.accel.Resolve("")
	if err != nil {
		return machine, nil, nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return machine, nil, nil, fmt.Errorf("find own program: %w", err)
	}
	archive, err = initramfs.Build(program, filepath.Join("/lib/modules", release), kvmModule, specification(o, term))
	if err != nil {
		return machine, nil, nil, err
	}
	machine = qemu.Machine{
		Accel:     accel,
		MemoryMiB: o.memoryMiB,
		CPUs:      o.cpus,
		Append:    commandLine(o),
		Shares:    []qemu.Share{{Path: "/", Tag: rootTag}},
	}
	for _, s := range o.shares {
		machine.Shares = append(machine.Shares, qemu.Share{Path: s.path, Tag: s.tag, Writable: s.writable})
	}
	return machine, image, archive, nil
}

// readKernel returns the kernel at path or else the newest one: uncompressed if possible, as QEMU takes both forms.
func readKernel(path string) (release string, image []byte, err error) {
	var found kernel.Image
	if path != "" {
		found, err = kernel.At(path)
	} else {
		found, err = kernel.Newest("/boot")
	}
	if err != nil {
		return "", nil, err
	}
	image, err = kernel.Uncompressed(found.Path)
	if err != nil {
		image, err = os.ReadFile(found.Path)
	}
	if err != nil {
		return "", nil, fmt.Errorf("read kernel: %w", err)
	}
	return found.Release, image, nil
}

func specification(o *options, term *terminal) wire.Spec {
	spec := wire.Spec{
		Command:  o.command,
		Env:      environment(o.env),
		Dir:      o.dir,
		Hostname: hostname,
		Cgroup:   o.cgroup,
		Init:     o.init,
		RootTag:  rootTag,
		Stdin:    o.interactive,
		Terminal: term.size(),
		Verbose:  o.verbose,
	}
	for _, s := range o.shares {
		spec.Shares = append(spec.Shares, wire.Share{Tag: s.tag, Mountpoint: s.mountpoint, Writable: s.writable})
	}
	return spec
}

// environment is small and stated, so that a test doesn't depend on who runs it.
func environment(extra []string) []string {
	env := map[string]string{
		"PATH":   "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME":   "/root",
		"TMPDIR": guest.TempDir,
	}
	order := []string{"PATH", "HOME", "TMPDIR"}
	set := func(key, value string) {
		if _, known := env[key]; !known {
			order = append(order, key)
		}
		env[key] = value
	}
	for _, key := range []string{"PATH", "HOME", "LANG", "TERM"} {
		if value := os.Getenv(key); value != "" {
			set(key, value)
		}
	}
	for _, kv := range extra {
		key, value, _ := strings.Cut(kv, "=")
		set(key, value)
	}
	list := make([]string, 0, len(order))
	for _, key := range order {
		list = append(list, key+"="+env[key])
	}
	return list
}

// commandLine is the kernel's. A panic reboots at once, and QEMU ends instead of rebooting. The rest of the base spares an
// emulated processor what is slow and of no use there.
func commandLine(o *options) string {
	// no_timer_check: on a busy machine an emulated timer comes so late that the kernel would give up on it.
	// hpet: the emulated processor's own counter leaps now and then while guests run, by seconds or minutes.
	words := []string{"console=ttyS0", "panic=-1", "reboot=t", "no_timer_check", "mitigations=off", "nmi_watchdog=0", "random.trust_cpu=on",
		"clocksource=hpet", "tsc=unstable", "rcupdate.rcu_expedited=1", "cryptomgr.notests"}
	if !o.verbose {
		words = append(words, "quiet")
	}
	if o.init == wire.InitSystemd {
		words = append(words, "systemd.unit="+guest.Target, "systemd.show_status=0", "systemd.firstboot=0",
			"fstab=no", "systemd.gpt_auto=0", "audit=0")
		switch o.cgroup {
		case wire.CgroupV2:
			words = append(words, "systemd.unified_cgroup_hierarchy=1")
		case wire.CgroupHybrid:
			words = append(words, "systemd.unified_cgroup_hierarchy=0", "systemd.legacy_systemd_cgroup_controller=0")
		case wire.CgroupV1:
			words = append(words, "systemd.unified_cgroup_hierarchy=0", "systemd.legacy_systemd_cgroup_controller=1")
		}
	}
	if o.append != "" {
		words = append(words, o.append)
	}
	return strings.Join(words, " ")
}

// supervise waits for the command's end, the deadline, or a signal; and then for the power off.
func supervise(o *options, process *qemu.Process, talk *conversation, term *terminal) (int, error) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGWINCH)
	defer signal.Stop(signals)

	var expired <-chan time.Time
	if o.timeout > 0 {
		timer := time.NewTimer(o.timeout)
		defer timer.Stop()
		expired = timer.C
	}
	boot := time.NewTimer(bootDeadline)
	defer boot.Stop()

	started := talk.commandStarted
	for {
		select {
		case <-started:
			started = nil
			boot.Stop()
			go talk.pulse()
			if err := attach(o, talk, term); err != nil {
				return statusHost, err
			}
		case end := <-talk.ended:
			return conclude(process, talk, end)
		case <-boot.C:
			return statusHost, fmt.Errorf("the host did not come up within %v; its last sign of life was %q",
				bootDeadline, talk.lastMark())
		case <-expired:
			if processes, ok := talk.inspect(); ok {
				fmt.Fprintf(os.Stderr, "host: running when time was up:\n%s", processes)
			}
			return statusTimeout, fmt.Errorf("timed out after %v", o.timeout)
		case s := <-signals:
			if s == unix.SIGWINCH {
				talk.sendSize(term.size())
				continue
			}
			number, ok := s.(syscall.Signal)
			if !ok {
				continue
			}
			return statusSignal + int(number), fmt.Errorf("ended by signal: %v", s)
		}
	}
}

// attach connects the caller's stdin and terminal with the command that has just started.
func attach(o *options, talk *conversation, term *terminal) error {
	if !o.interactive {
		return nil
	}
	if err := term.raw(); err != nil {
		return err
	}
	talk.sendSize(term.size()) // it may have changed since the boot
	go talk.sendInput(os.Stdin)
	return nil
}

// conclude turns the end of the conversation into the program's, and sees the guest off.
func conclude(process *qemu.Process, talk *conversation, end end) (int, error) {
	err := end.err
	if err == nil || errors.Is(err, errSetUp) {
		err = errors.Join(err, talk.goodbye())
	} else if !errors.Is(err, errGuestGone) {
		return statusHost, err // it would go on running
	}
	select {
	case <-process.Done():
		if err != nil {
			return statusHost, errors.Join(err, process.Err())
		}
	case <-time.After(powerOffDeadline):
		fmt.Fprintf(os.Stderr, "host: the guest did not power off within %v and is killed\n", powerOffDeadline)
	}
	if err != nil {
		return statusHost, err
	}
	return end.status, nil
}
