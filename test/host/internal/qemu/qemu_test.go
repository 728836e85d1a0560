package qemu

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// value returns what follows the given option, each time it occurs.
func values(args []string, option string) []string {
	var all []string
	for i, arg := range args {
		if arg == option && i+1 < len(args) {
			all = append(all, args[i+1])
		}
	}
	return all
}

func TestArgumentsSayWhatTheMachineHas(t *testing.T) {
	m := Machine{
		Accel: TCG, MemoryMiB: 2048, CPUs: 3, Append: "quiet panic=-1",
		Shares: []Share{{Path: "/", Tag: "hostroot"}, {Path: "/a,b", Tag: "out", Writable: true}},
	}
	args := m.Args()
	for option, want := range map[string][]string{
		"-m":      {"2048"},
		"-smp":    {"3"},
		"-append": {"quiet panic=-1"},
		"-accel":  {"tcg,thread=multi"},
		"-cpu":    {"max,-erms,-fsrm,-xsave"},
		"-kernel": {"/proc/self/fd/6"},
		"-initrd": {"/proc/self/fd/5"},
		"-fsdev": {
			"local,id=share0,path=/,security_model=none,multidevs=remap,readonly=on",
			"local,id=share1,path=/a,,b,security_model=none,multidevs=remap",
		},
	} {
		if got := values(args, option); !slices.Equal(got, want) {
			t.Errorf("%s is %q, want %q", option, got, want)
		}
	}
	if devices := values(args, "-device"); !slices.Contains(devices, "virtio-9p-pci,fsdev=share1,mount_tag=out") {
		t.Errorf("no device for the share in %q", devices)
	}
}

func TestPanicEndsQEMU(t *testing.T) {
	if !slices.Contains(Machine{}.Args(), "-no-reboot") {
		t.Error("a guest that reboots would boot again")
	}
}

func TestKVMPassesTheProcessorOn(t *testing.T) {
	args := Machine{Accel: KVM}.Args()
	if got := values(args, "-cpu"); !slices.Equal(got, []string{"host"}) {
		t.Errorf("-cpu is %q", got)
	}
}

func TestAccelerator(t *testing.T) {
	const amd, intel, neither = "flags\t\t: fpu svm sse\n", "flags : vmx\n", "model : x\nflags\t: fpu sse\n"
	tests := map[string]struct {
		asked   Accel
		cpuinfo string
		kvm     bool
		nested  map[string]string
		want    Accel
		module  string
		err     string
	}{
		"tcg whatever there is":              {TCG, amd, true, map[string]string{"kvm_amd": "1"}, TCG, "kvm_amd", ""},
		"auto on amd":                        {Auto, amd, true, map[string]string{"kvm_amd": "1\n"}, KVM, "kvm_amd", ""},
		"auto on intel":                      {Auto, intel, true, map[string]string{"kvm_intel": "Y\n"}, KVM, "kvm_intel", ""},
		"auto without nesting":               {Auto, intel, true, map[string]string{"kvm_intel": "N\n"}, TCG, "kvm_amd", ""},
		"auto with a paravirtual /dev/kvm":   {Auto, neither, true, nil, TCG, "kvm_amd", ""},
		"auto without /dev/kvm":              {Auto, amd, false, map[string]string{"kvm_amd": "1"}, TCG, "kvm_amd", ""},
		"kvm with a paravirtual /dev/kvm":    {KVM, neither, true, nil, "", "", "neither svm nor vmx"},
		"kvm without nesting":                {KVM, amd, true, map[string]string{"kvm_amd": "0\n"}, "", "", "nested=1"},
		"kvm without permission or /dev/kvm": {KVM, amd, false, nil, "", "", "/dev/kvm"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			place(t, root, "proc/cpuinfo", test.cpuinfo)
			if test.kvm {
				place(t, root, "dev/kvm", "")
			}
			for module, value := range test.nested {
				place(t, root, "sys/module/"+module+"/parameters/nested", value)
			}
			got, module, err := test.asked.Resolve(root)
			if got != test.want || module != test.module {
				t.Errorf("got %q with %q, want %q with %q", got, module, test.want, test.module)
			}
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("got error %v, want %q", err, test.err)
			}
		})
	}
}

func place(t *testing.T, root, name, content string) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestUnknownAcceleratorIsRefused(t *testing.T) {
	if _, err := ParseAccel("xen"); err == nil {
		t.Error("xen was taken")
	}
}
