// Package config reads husk's configuration file and finds what the shim needs beside itself.
//
// The file is TOML, and every key is optional. The first of these that exists is read:
//
//  1. the ConfigPath of the runtime's options (containerd's config.toml, CRI-O's runtime_config_path)
//  2. $HUSK_CONFIG
//  3. /etc/husk/config.toml
//  4. PREFIX/share/husk/config.toml, when the shim is PREFIX/bin/containerd-shim-husk-v2
//
// A file named by 1 or 2 must exist. A ConfigBody in the runtime's options is applied over the file.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Annotations that may be allowed, and the configuration's names for what they replace.
const (
	AnnotationVCPUs  = "io.husk.vcpus"
	AnnotationMemory = "io.husk.memory"
)

// What becomes of a command that is not found.
const (
	MissingExecutableExits = "exit"  // status 127, said on the container's stderr
	MissingExecutableFails = "error" // an error of Create or Start, as with runc
)

// What a container gets that asks for the host's network.
const (
	HostNetworkUser = "user" // one in user mode, by husk-net
	HostNetworkNone = "none" // loopback alone
)

// Who carries the packets of a guest on KVM.
const (
	VhostNetAuto = "auto" // the host's kernel where it can, else the VMM
	VhostNetOff  = "off"  // the VMM
)

// What may run guests.
const (
	BackendAuto = "auto" // KVM where it is usable, else QEMU
	BackendKVM  = "kvm"
	BackendQEMU = "qemu"
)

// Config is the configuration file with its defaults filled in.
type Config struct {
	Backend string `toml:"vmm"`  // what runs guests: "auto", "kvm" or "qemu"
	QEMU    string `toml:"qemu"` // path of QEMU's binary; empty looks for it

	VMM       string `toml:"vmm_path"`  // path of husk-vmm
	Kernel    string `toml:"kernel"`    // path of the guest's kernel
	Initramfs string `toml:"initramfs"` // path of the guest's initramfs

	DefaultVCPUs  uint32 `toml:"default_vcpus"`  // of a VM whose container has no CPU quota
	DefaultMemory Size   `toml:"default_memory"` // of a VM whose container has no memory limit
	GuestReserve  Size   `toml:"guest_reserve"`  // on top of a container's memory limit, for the guest itself

	HostNetwork     string `toml:"host_network"`     // "user" or "none"
	SpareInterfaces uint32 `toml:"spare_interfaces"` // devices for interfaces that come after the start
	VhostNet        string `toml:"vhost_net"`        // "auto" or "off"

	// SpareDisks are devices for the roots of a pod's further containers; nil is as many as the snapshotter suggests.
	SpareDisks *uint32 `toml:"spare_disks"`

	SharedACLs bool `toml:"shared_acls"` // POSIX ACLs in shared directories, which are no file systems of their own then

	ShimCgroup string `toml:"shim_cgroup"` // path of the cgroup that shims go into; empty leaves them in the engine's

	MissingExecutable  string   `toml:"missing_executable"` // "exit" or "error"
	BootTimeout        Duration `toml:"boot_timeout"`       // see sandbox.within
	ClockInterval      Duration `toml:"clock_interval"`     // between looks at the guest's clock; 0 is never
	KernelCmdline      string   `toml:"kernel_cmdline"`     // appended to the guest's command line
	AllowedAnnotations []string `toml:"allowed_annotations"`

	Debug    bool   `toml:"debug"`    // log at debug level
	Console  bool   `toml:"console"`  // write the guest's console live to console.log in the sandbox's directory
	Timeline string `toml:"timeline"` // a directory that keeps every container's boot timeline, <id>.json

	// Path is the file that was read; empty when there was none.
	Path string `toml:"-"`
}

// Cmdline is what the configuration puts on the guest's command line. A kernel that says all it does to its console
// takes longer to start, so it does only when asked. A network namespace has no interfaces that nobody asked for.
func (c *Config) Cmdline() string {
	words := "dummy.numdummies=0 fb_tunnels=none " + c.KernelCmdline
	if !c.Debug {
		words = "quiet " + words
	}
	return strings.TrimSpace(words)
}

// Source says where to look.
type Source struct {
	Path       string // of the runtime's options
	Body       []byte // of the runtime's options
	Executable string // of the shim
	Getenv     func(string) string
	Etc        string // "/etc/husk" but in tests
}

// Load reads the configuration and finds the assets. It opens none of them.
func Load(source Source) (*Config, error) {
	config := &Config{
		Backend:            BackendAuto,
		DefaultVCPUs:       1,
		DefaultMemory:      512 << 20,
		GuestReserve:       96 << 20,
		HostNetwork:        HostNetworkUser,
		VhostNet:           VhostNetOff,
		MissingExecutable:  MissingExecutableExits,
		BootTimeout:        defaultBootTimeout,
		ClockInterval:      defaultClockInterval,
		AllowedAnnotations: []string{AnnotationVCPUs, AnnotationMemory},
	}
	path, data, err := find(source)
	if err != nil {
		return nil, err
	}
	config.Path = path
	if err := config.decode(path, data); err != nil {
		return nil, err
	}
	if err := config.decode("the runtime options' config_body", source.Body); err != nil {
		return nil, err
	}
	if err := config.check(); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", describe(path), err)
	}
	config.locate(source.Executable)
	return config, nil
}

func describe(path string) string {
	if path == "" {
		return "(runtime options)"
	}
	return path
}

// find returns the path and content of the first configuration file; both empty when there is none.
func find(source Source) (string, []byte, error) {
	if path := source.Path; path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			return "", nil, fmt.Errorf("read the configuration that the runtime options name: %w", err)
		}
		return path, data, nil
	}
	if path := source.Getenv("HUSK_CONFIG"); path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			return "", nil, fmt.Errorf("read the configuration that HUSK_CONFIG names: %w", err)
		}
		return path, data, nil
	}
	etc := source.Etc
	if etc == "" {
		etc = "/etc/husk"
	}
	places := []string{filepath.Join(etc, "config.toml")}
	if prefix, ok := prefix(source.Executable); ok {
		places = append(places, filepath.Join(prefix, "share/husk/config.toml"))
	}
	for _, path := range places {
		data, err := os.ReadFile(path)
		if err == nil {
			return path, data, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", nil, fmt.Errorf("read configuration: %w", err)
		}
	}
	return "", nil, nil
}

// decode lays data over c. An unknown key is an error that names it, its file and line.
func (c *Config) decode(name string, data []byte) error {
	decoder := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	err := decoder.Decode(c)
	var unknown *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &unknown):
		first := unknown.Errors[0]
		line, _ := first.Position()
		return fmt.Errorf("configuration %s, line %d: unknown key %q; the keys are %s",
			name, line, strings.Join(first.Key(), "."), strings.Join(keys, ", "))
	case errors.As(err, &wrong):
		line, _ := wrong.Position()
		text := strings.Split(string(data), "\n")[line-1]
		return fmt.Errorf("configuration %s, line %d, %q: %w", name, line, strings.TrimSpace(text), err)
	}
	return fmt.Errorf("configuration %s: %w", name, err)
}

var keys = []string{
	"vmm", "qemu", "vmm_path", "kernel", "initramfs", "default_vcpus", "default_memory", "guest_reserve", "host_network", "spare_interfaces",
	"vhost_net", "spare_disks", "shared_acls", "shim_cgroup", "missing_executable", "boot_timeout", "clock_interval", "kernel_cmdline", "allowed_annotations", "debug", "console", "timeline",
}

func (c *Config) check() error {
	if c.DefaultVCPUs == 0 {
		return errors.New("default_vcpus is 0: a VM needs at least one")
	}
	if c.DefaultMemory < MinMemory {
		return fmt.Errorf("default_memory is %s: a VM needs at least %s", c.DefaultMemory, MinMemory)
	}
	if c.BootTimeout <= 0 {
		return fmt.Errorf("boot_timeout is %s: it must be above zero", c.BootTimeout)
	}
	for _, choice := range []struct {
		key, value string
		of         []string
	}{
		{"vmm", c.Backend, []string{BackendAuto, BackendKVM, BackendQEMU}},
		{"host_network", c.HostNetwork, []string{HostNetworkUser, HostNetworkNone}},
		{"vhost_net", c.VhostNet, []string{VhostNetAuto, VhostNetOff}},
		{"missing_executable", c.MissingExecutable, []string{MissingExecutableExits, MissingExecutableFails}},
	} {
		if !slices.Contains(choice.of, choice.value) {
			return fmt.Errorf("%s is %q: it is one of %q", choice.key, choice.value, choice.of)
		}
	}
	for key, path := range map[string]string{
		"qemu": c.QEMU, "vmm_path": c.VMM, "kernel": c.Kernel, "initramfs": c.Initramfs, "timeline": c.Timeline,
		"shim_cgroup": c.ShimCgroup,
	} {
		if path != "" && !filepath.IsAbs(path) {
			return fmt.Errorf("%s is %q: it must be an absolute path", key, path)
		}
	}
	for _, name := range c.AllowedAnnotations {
		if name != AnnotationVCPUs && name != AnnotationMemory {
			return fmt.Errorf("allowed_annotations has %q: known are %q and %q", name, AnnotationVCPUs, AnnotationMemory)
		}
	}
	return nil
}
