package qemu

import (
	"flag"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden is a command line as a file: an option and its value a line.
func golden(args []string) string {
	var b strings.Builder
	for i, a := range args {
		switch {
		case i == 0:
		case strings.HasPrefix(a, "-"):
			b.WriteByte('\n')
		default:
			b.WriteByte(' ')
		}
		b.WriteString(a)
	}
	return b.String() + "\n"
}

func TestArguments(t *testing.T) {
	file := func(name string) *os.File { return os.NewFile(1<<20, name) } // never used as a descriptor
	full := func(goarch string) Config {
		return Config{
			Binary: Binary{Path: "/usr/bin/qemu", Version: Version{7, 2}}, Arch: goarch, VCPUs: 2, MemoryBytes: 512 << 20,
			Kernel: file("kernel"), Initramfs: file("initramfs"), Cmdline: "console=hvc0 a=b,c", Console: file("console"),
			Devices: []Device{
				{Kind: Vsock, Front: file("vsock")},
				{Kind: FS, Front: file("fs"), Tag: "husk", Queues: 2},
				{Kind: Block, Front: file("disk")},
			},
			NICs: []NIC{{Taps: []*os.File{file("tap")}, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, MTU: 1450}},
		}
	}
	for name, change := range map[string]struct {
		goarch string
		with   func(*Config)
	}{
		"amd64":     {"amd64", func(*Config) {}},
		"arm64":     {"arm64", func(*Config) {}},
		"riscv64":   {"riscv64", func(*Config) {}},
		"s390x":     {"s390x", func(*Config) {}},
		"ppc64le":   {"ppc64le", func(*Config) {}},
		"amd64-kvm": {"amd64", func(c *Config) { c.KVM = true }},
		"amd64-9.0": {"amd64", func(c *Config) { c.Binary.Version = Version{9, 0} }},
		"amd64-pairs": {"amd64", func(c *Config) { // and no more than the guest has processors
			c.KVM, c.NICs[0].Taps = true, []*os.File{file("tap"), file("second"), file("third")}
		}},
		"amd64-pairs-of-one": {"amd64", func(c *Config) { c.NICs[0].Taps = []*os.File{file("tap"), file("second")} }},
		"amd64-least": {"amd64", func(c *Config) {
			c.Devices, c.NICs, c.Console, c.Initramfs, c.Cmdline = nil, nil, nil, nil, ""
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c := full(change.goarch)
			change.with(&c)
			must(t, c.check())
			args, files := arguments(&c, boards[c.Arch], file("qmp"))
			var names []string
			for _, f := range files {
				names = append(names, f.Name())
			}
			got := golden(args) + "files: " + strings.Join(names, " ") + "\n"
			path := filepath.Join("testdata", "args", name)
			if *update {
				must(t, os.MkdirAll(filepath.Dir(path), 0o755))
				must(t, os.WriteFile(path, []byte(got), 0o644))
			}
			want, err := os.ReadFile(path)
			must(t, err)
			if d := cmp.Diff(string(want), got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestConfigurationsThatCannotBe(t *testing.T) {
	for name, c := range map[string]struct {
		with func(*Config)
		want string
	}{
		"arch":    {func(c *Config) { c.Arch = "mips" }, "no QEMU machine"},
		"binary":  {func(c *Config) { c.Binary = Binary{} }, "no QEMU was given"},
		"kernel":  {func(c *Config) { c.Kernel = nil }, "no kernel"},
		"vcpus":   {func(c *Config) { c.VCPUs = 0 }, "at least one"},
		"memory":  {func(c *Config) { c.MemoryBytes = 1<<20 + 1 }, "multiple of 1 MiB"},
		"none":    {func(c *Config) { c.MemoryBytes = 0 }, "multiple of 1 MiB"},
		"cmdline": {func(c *Config) { c.Cmdline = "a\x00b" }, "NUL"},
		"front":   {func(c *Config) { c.Devices = []Device{{Kind: Vsock}} }, "no socket"},
		"tag":     {func(c *Config) { c.Devices = []Device{{Front: os.Stdin, Tag: "a,b"}} }, "without commas"},
		"queues":  {func(c *Config) { c.Devices = []Device{{Front: os.Stdin, Tag: "a", Queues: -1}} }, "-1 queues"},
		"kind":    {func(c *Config) { c.Devices = []Device{{Front: os.Stdin, Kind: 9}} }, "unknown kind"},
		"nic":     {func(c *Config) { c.NICs = []NIC{{MAC: make(net.HardwareAddr, 6)}} }, "needs a tap"},
		"mac":     {func(c *Config) { c.NICs = []NIC{{Taps: []*os.File{os.Stdin}, MAC: make(net.HardwareAddr, 8)}} }, "an Ethernet address"},
		"nics":    {func(c *Config) { c.NICs = make([]NIC, 7) }, "room for 8, of which it needs 3"},
		"devices": {func(c *Config) { c.Devices = make([]Device, 7) }, "room for 8, of which it needs 3"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Binary: Binary{Path: "/q"}, Arch: "amd64", VCPUs: 1, MemoryBytes: 1 << 20, Kernel: os.Stdin}
			must(t, cfg.check())
			c.with(&cfg)
			if err := cfg.check(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestKernelWordsGiveTheRateOfTheCounterToAnEmulatedPCOnly(t *testing.T) {
	has := func(words []Word) bool {
		for _, w := range words {
			if strings.HasPrefix(w.Word, "tsc_early_khz=") {
				return true
			}
		}
		return false
	}
	if got := has(KernelWords("amd64", false)); got != (counterRate() > 0) {
		t.Errorf("an emulated PC is told: %v", got)
	}
	if has(KernelWords("amd64", true)) || has(KernelWords("arm64", false)) {
		t.Error("somebody else is told")
	}
}
