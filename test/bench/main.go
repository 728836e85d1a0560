// Command bench compares husk with runc and with QEMU, as ratios of one interleaved run: A B A B …, so that a machine
// whose speed drifts slows both alike. `make bench` builds what it needs and starts it. Without KVM it measures guests on
// QEMU here, and those on KVM in the KVM test host, where absolute times mean little and ratios still something.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/huskvm/husk/test/rig"
	"github.com/huskvm/husk/vmm/kvm"
)

func main() {
	inside := flag.Bool("inside", false, "run here, whatever /dev/kvm says (set in the test host)")
	rounds := flag.Int("n", 10, "rounds of each comparison")
	only := flag.String("only", "", "one of "+strings.Join(names, ", ")+"; empty is all")
	flag.Parse()
	if err := run(*inside, *rounds, *only); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			os.Exit(exit.ExitCode())
		}
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// names are the parts, in the order in which they run.
var names = []string{"containers", "pods", "machines", "memory", "network"}

// parts runs those of the names that are asked for.
func (b *bench) parts(only string, of ...string) error {
	all := map[string]func() error{
		"containers": b.containers, "pods": b.pods, "machines": b.machines, "memory": b.memory, "network": b.network,
	}
	for _, name := range of {
		if only != "" && only != name {
			continue
		}
		if err := all[name](); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func run(inside bool, rounds int, only string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	tools := filepath.Dir(self)
	if inside || kvm.Probe("/dev/kvm") == nil {
		return with(tools, "kvm", rounds, func(b *bench) error { return b.parts(only, names...) })
	}
	fmt.Print("On QEMU, in software, right here:\n\n")
	if err := with(tools, "qemu", rounds, func(b *bench) error { return b.parts(only, "containers", "pods", "memory", "network") }); err != nil {
		return err
	}
	fmt.Print("\nOn KVM, in the KVM test host:\n\n")
	cmd := exec.Command(filepath.Join(tools, "host"), "-timeout", "30m", "--", self, "-inside", "-n", fmt.Sprint(rounds), "-only", only)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// with runs f on a containerd of its own.
func with(tools, backend string, rounds int, f func(*bench) error) error {
	dir, err := os.MkdirTemp("", "husk-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{ctx: context.Background(), backend: backend, bin: filepath.Dir(tools), tools: tools, dir: dir, rounds: rounds}
	b.rig, err = rig.Start(b.ctx, rig.Config{
		Containerd: filepath.Join(tools, "containerd"), Bin: b.bin, ImageTar: filepath.Join(tools, "image.tar"), Dir: dir,
		HuskConfig: b.configuration(),
	})
	if err != nil {
		return err
	}
	defer func() { _ = b.rig.Stop() }()
	return f(b)
}

type bench struct {
	ctx        context.Context
	rig        *rig.Rig
	backend    string
	bin, tools string
	dir        string
	rounds     int
}

func (b *bench) configuration() string {
	return fmt.Sprintf("vmm = %q\ndefault_memory = \"256MiB\"\ntimeline = %q\n", b.backend, filepath.Join(b.dir, "timeline"))
}

// containers compares `ctr run … true` from start to exit.
func (b *bench) containers() error {
	one := func(runtime string) func(i int) (time.Duration, error) {
		return func(i int) (time.Duration, error) {
			cmd := b.rig.Ctr(b.ctx, "run", "--rm", "--runtime", runtime, rig.Image, fmt.Sprintf("bench-%s-%d", runtime[14:18], i), "true")
			res, err := rig.Exec(cmd)
			if err == nil && res.Status != 0 {
				err = fmt.Errorf("%s: status %d: %s", runtime, res.Status, res.Stderr)
			}
			return res.Took, err
		}
	}
	if err := b.compare("ctr run … true, start to exit", "husk", one(rig.Runtime), "runc", one("io.containerd.runc.v2")); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(b.dir, "timeline", "*"))
	if err != nil || len(files) == 0 {
		return errors.Join(err, errors.New("no timeline was written"))
	}
	out, err := exec.Command(filepath.Join(b.bin, "husk"), "timeline", files[len(files)-1]).CombinedOutput()
	fmt.Printf("\nwhere the time goes, in one start of husk:\n%s\n", out)
	return err
}

// machines compares the start of a VM to the end of its init, which does nothing but reboot.
func (b *bench) machines() error {
	kernel, initramfs := filepath.Join(b.bin, "husk-kernel"), filepath.Join(b.tools, "reboot-initramfs")
	timed := func(name string, args ...string) func(int) (time.Duration, error) {
		return func(int) (time.Duration, error) {
			ctx, cancel := context.WithTimeout(b.ctx, 2*time.Minute)
			defer cancel()
			begin := time.Now()
			out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%s: %w: %s", name, err, out)
			}
			return time.Since(begin), err
		}
	}
	return b.compare("VM start to guest init",
		"husk-vmm", timed(filepath.Join(b.bin, "husk-vmm"), "run", "-kernel", kernel, "-initramfs", initramfs, "-cmdline", "quiet"),
		"qemu", timed("qemu-system-x86_64", "-M", "microvm,acpi=off,pit=off,rtc=off,x-option-roms=off,isa-serial=off",
			"-accel", "kvm", "-cpu", "host", "-m", "256", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
			"-kernel", kernel, "-initrd", initramfs, "-append", "quiet panic=-1 reboot=t 8250.nr_uarts=0 tsc=reliable no_timer_check"))
}

// compare runs a and b in turn, and prints medians and the ratio pair by pair.
func (b *bench) compare(what, nameA string, a func(int) (time.Duration, error), nameB string, other func(int) (time.Duration, error)) error {
	var as, bs []time.Duration
	var ratios []float64
	for i := range b.rounds + 1 {
		da, err := a(i)
		if err != nil {
			return err
		}
		db, err := other(i)
		if err != nil {
			return err
		}
		if i == 0 {
			continue // a warm-up
		}
		as, bs, ratios = append(as, da), append(bs, db), append(ratios, float64(da)/float64(db))
	}
	slices.Sort(as)
	slices.Sort(bs)
	slices.Sort(ratios)
	n := len(ratios)
	fmt.Printf("%-32s %s %v, %s %v (medians of %d); ratio %.2f (%.2f to %.2f)\n", what,
		nameA, as[n/2].Round(time.Millisecond), nameB, bs[n/2].Round(time.Millisecond), n, ratios[n/2], ratios[0], ratios[n-1])
	return nil
}
