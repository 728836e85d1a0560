package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func noEnv(string) string { return "" }

func TestWithoutAFileTheDefaultsHold(t *testing.T) {
	c, err := Load(Source{Executable: "/opt/x/containerd-shim-husk-v2", Getenv: noEnv, Etc: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if c.Path != "" || c.DefaultVCPUs != 1 || c.DefaultMemory != 512<<20 || c.MissingExecutable != "exit" {
		t.Fatalf("defaults %+v", c)
	}
	if c.VMM != "/opt/x/husk-vmm" || c.Kernel != "/opt/x/husk-kernel" || c.Initramfs != "/opt/x/husk-initramfs" {
		t.Fatalf("assets %s %s %s", c.VMM, c.Kernel, c.Initramfs)
	}
}

func TestTheMoreSpecificFileWins(t *testing.T) {
	dir := t.TempDir()
	options := write(t, filepath.Join(dir, "options.toml"), `default_vcpus = 2`)
	env := write(t, filepath.Join(dir, "env.toml"), `default_vcpus = 3`)
	etc := filepath.Dir(write(t, filepath.Join(dir, "etc/husk/config.toml"), `default_vcpus = 4`))
	write(t, filepath.Join(dir, "usr/share/husk/config.toml"), `default_vcpus = 5`)
	executable := filepath.Join(dir, "usr/bin/shim")
	for _, test := range []struct {
		name   string
		source Source
		want   uint32
	}{
		{"options", Source{Path: options, Getenv: func(string) string { return env }, Etc: etc}, 2},
		{"environment", Source{Getenv: func(string) string { return env }, Etc: etc}, 3},
		{"etc", Source{Getenv: noEnv, Etc: etc}, 4},
		{"share", Source{Getenv: noEnv, Etc: filepath.Join(dir, "none")}, 5},
		{"body over file", Source{Path: options, Body: []byte("default_vcpus = 6"), Getenv: noEnv}, 6},
	} {
		test.source.Executable = executable
		c, err := Load(test.source)
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		if c.DefaultVCPUs != test.want {
			t.Errorf("%s: default_vcpus %d, want %d", test.name, c.DefaultVCPUs, test.want)
		}
	}
}

func TestInstalledAssetsAreFoundUnderThePrefix(t *testing.T) {
	dir := t.TempDir()
	vmm := write(t, filepath.Join(dir, "lib/husk/husk-vmm"), "")
	kernel := write(t, filepath.Join(dir, "share/husk/husk-kernel"), "")
	initramfs := write(t, filepath.Join(dir, "share/husk/husk-initramfs"), "")
	c, err := Load(Source{Executable: filepath.Join(dir, "bin/shim"), Getenv: noEnv, Etc: dir})
	if err != nil {
		t.Fatal(err)
	}
	if c.VMM != vmm || c.Kernel != kernel || c.Initramfs != initramfs {
		t.Fatalf("assets %s %s %s", c.VMM, c.Kernel, c.Initramfs)
	}
	beside := write(t, filepath.Join(dir, "bin/husk-vmm"), "")
	if c, _ = Load(Source{Executable: filepath.Join(dir, "bin/shim"), Getenv: noEnv, Etc: dir}); c.VMM != beside {
		t.Fatalf("vmm %s, want the one beside the shim", c.VMM)
	}
}

func TestAFaultIsNamedWithItsPlace(t *testing.T) {
	for _, test := range []struct {
		text string
		want []string
	}{
		{"default_vcpus = 1\nvcpu = 2\n", []string{"line 2", `unknown key "vcpu"`, "default_vcpus"}},
		{"\n\ndefault_memory = \"lots\"\n", []string{"lots", "512MiB"}},
		{"kernel = \n", []string{"line 1"}},
		{"default_vcpus = \"two\"\n", []string{"line 1", "default_vcpus"}},
		{"default_vcpus = 0", []string{"default_vcpus is 0"}},
		{`default_memory = "8MiB"`, []string{"8MiB", "at least 64MiB"}},
		{`missing_executable = "shrug"`, []string{"shrug", "exit", "error"}},
		{`kernel = "relative"`, []string{"kernel", "absolute"}},
		{`boot_timeout = "0s"`, []string{"boot_timeout"}},
		{`allowed_annotations = ["io.husk.root"]`, []string{"io.husk.root"}},
	} {
		path := write(t, filepath.Join(t.TempDir(), "c.toml"), test.text)
		_, err := Load(Source{Path: path, Getenv: noEnv})
		if err == nil {
			t.Errorf("%q: no error", test.text)
			continue
		}
		for _, want := range append(test.want, path) {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: error %q lacks %q", test.text, err, want)
			}
		}
	}
}

func TestANamedFileMustExist(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "absent.toml")
	for _, source := range []Source{
		{Path: absent, Getenv: noEnv},
		{Getenv: func(string) string { return absent }},
	} {
		if _, err := Load(source); err == nil || !strings.Contains(err.Error(), absent) {
			t.Errorf("error %v does not name %s", err, absent)
		}
	}
}

func TestEveryKeyIsRead(t *testing.T) {
	text := `
vmm = "qemu"
qemu = "/q"
vmm_path = "/v"
kernel = "/k"
initramfs = "/i"
default_vcpus = 3
default_memory = "1GiB"
guest_reserve = "128M"
host_network = "none"
spare_interfaces = 2
spare_disks = 3
shared_acls = true
vhost_net = "auto"
shim_cgroup = "/shims"
missing_executable = "error"
boot_timeout = "90s"
clock_interval = "7m"
kernel_cmdline = "debug"
allowed_annotations = ["io.husk.vcpus"]
debug = true
console = true
timeline = "/t"
`
	for _, key := range keys {
		if !strings.Contains(text, "\n"+key+" =") {
			t.Errorf("key %s is not in this test", key)
		}
	}
	c, err := Load(Source{Path: write(t, filepath.Join(t.TempDir(), "c.toml"), text), Getenv: noEnv})
	if err != nil {
		t.Fatal(err)
	}
	if c.Backend != BackendQEMU || c.QEMU != "/q" || c.VMM != "/v" || c.Kernel != "/k" || c.Initramfs != "/i" || c.DefaultVCPUs != 3 || c.DefaultMemory != 1<<30 ||
		c.GuestReserve != 128<<20 || c.HostNetwork != HostNetworkNone || c.SpareInterfaces != 2 || *c.SpareDisks != 3 || !c.SharedACLs || c.VhostNet != VhostNetAuto || c.ShimCgroup != "/shims" || c.MissingExecutable != "error" || time.Duration(c.BootTimeout) != 90*time.Second ||
		time.Duration(c.ClockInterval) != 7*time.Minute ||
		c.KernelCmdline != "debug" || len(c.AllowedAnnotations) != 1 || !c.Debug || !c.Console || c.Timeline != "/t" {
		t.Fatalf("%+v", c)
	}
}

func TestParseSize(t *testing.T) {
	for _, test := range []struct {
		text string
		want Size
	}{{"0", 0}, {"4096", 4096}, {"1K", 1024}, {"2MiB", 2 << 20}, {"2 MiB", 2 << 20}, {"3Gi", 3 << 30}} {
		if got, err := ParseSize(test.text); err != nil || got != test.want {
			t.Errorf("%q is %d, %v; want %d", test.text, got, err, test.want)
		}
	}
	for _, text := range []string{"", "M", "-1", "1.5G", "9999999999G", "1TB"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q is taken for %d", text, got)
		}
	}
}
