package bundle

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Where things are in the guest.
const (
	guestShares = "/run/husk/shares"
	guestDisks  = "/run/husk/disks"
)

// Share is a host path to appear in the guest at GuestPath(Name): a directory, or exactly one file.
type Share struct {
	Name      string
	Source    string // on the host
	Recursive bool   // with what is mounted below it
	ReadOnly  bool
	Inline    bool // part of the guest's one file system, where ids can be mapped and ACLs are
}

// GuestPath is where the guest finds the share called name.
func GuestPath(name string) string { return path.Join(guestShares, name) }

// DiskPath is where the guest mounts the disk with a serial.
func DiskPath(serial string) string { return path.Join(guestDisks, serial) }

// Guest is what the guest is told and given for one container.
type Guest struct {
	Spec   *specs.Spec
	Binds  []Share  // in the order of the specification's mounts
	Notes  []string // what was left out, for the log
	RootID string   // a name for the container's root, as share or as disk serial
	// SharedMemory is the host's directory that the pod's /dev/shm would be; empty when the container has none.
	SharedMemory string
}

// ForGuest makes the guest's specification from the host's, which it leaves alone. The guest is the sandbox,
// so everything that names an object of the host goes: namespace paths, cgroup path, devices, labels of the
// host's security modules. What would have had an effect is noted. root.path is for the caller to set, to GuestPath
// or DiskPath of RootID.
func ForGuest(id string, spec *specs.Spec) (*Guest, error) {
	guest, err := clone(spec)
	if err != nil {
		return nil, err
	}
	g := &Guest{Spec: guest, RootID: shareName(id, "root")}
	guest.Hooks = guestHooks(spec.Hooks)
	guest.Windows, guest.Solaris, guest.VM, guest.ZOS = nil, nil, nil, nil
	g.stripProcess(guest.Process)
	identity := Identify(id, spec.Annotations)
	if r := guest.Linux.Resources; r != nil {
		g.noteIO(r.BlockIO, identity.Kind == Member)
	}
	g.stripLinux(guest.Linux)
	shareNamespaces(guest.Linux, identity)
	ownCgroups(guest)
	for i := range guest.Mounts {
		m := &guest.Mounts[i]
		if !IsBind(*m) {
			continue
		}
		if m.Source == "" {
			return nil, fmt.Errorf("mount of %s: a bind mount without a source: %w", m.Destination, errdefs.ErrInvalidArgument)
		}
		if isSharedMemory(*m, identity) {
			g.SharedMemory, m.Source = m.Source, SharedMemory
			continue
		}
		share := Share{
			Name:      shareName(id, fmt.Sprint("mount", i)),
			Source:    m.Source,
			Recursive: slices.Contains(m.Options, "rbind"),
			Inline:    len(m.UIDMappings)+len(m.GIDMappings) > 0 || slices.ContainsFunc(m.Options, asksForInline),
			ReadOnly:  slices.Contains(m.Options, "ro") || slices.Contains(m.Options, "rro"),
		}
		m.Source = GuestPath(share.Name)
		g.Binds = append(g.Binds, share)
	}
	return g, nil
}

// IsBind says whether m shows a host path in the container.
func IsBind(m specs.Mount) bool {
	if slices.Contains(m.Options, "remount") {
		return false // it changes what is there
	}
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

func asksForInline(option string) bool {
	return option == "idmap" || option == "ridmap" || option == "acl"
}

// shareName is at most 20 bytes, which is what a disk's serial may have.
func shareName(id, part string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:5]) + "-" + part
}

func clone(spec *specs.Spec) (*specs.Spec, error) {
	data, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("copy specification: %w", err)
	}
	c := new(specs.Spec)
	if err := json.Unmarshal(data, c); err != nil {
		return nil, fmt.Errorf("copy specification: %w", err)
	}
	return c, nil
}

// guestHooks are those that run in the container's namespaces, and so in the guest. The path of a createContainer
// hook is the guest's.
func guestHooks(hooks *specs.Hooks) *specs.Hooks {
	if hooks == nil || len(hooks.CreateContainer)+len(hooks.StartContainer) == 0 {
		return nil
	}
	return &specs.Hooks{CreateContainer: hooks.CreateContainer, StartContainer: hooks.StartContainer}
}

// ProcessForGuest makes an exec's process from the host's JSON.
func ProcessForGuest(data []byte) (*specs.Process, error) {
	p := new(specs.Process)
	if err := json.Unmarshal(data, p); err != nil {
		return nil, fmt.Errorf("parse the process to execute: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if len(p.Args) == 0 {
		return nil, fmt.Errorf("the process to execute has no arguments: %w", errdefs.ErrInvalidArgument)
	}
	new(Guest).stripProcess(p)
	return p, nil
}

func (g *Guest) note(dropped bool, field, why string) {
	if dropped {
		g.Notes = append(g.Notes, field+" is not applied: "+why)
	}
}

// stripProcess drops the host's security labels: the guest's kernel has neither AppArmor nor SELinux.
func (g *Guest) stripProcess(p *specs.Process) {
	g.note(p.ApparmorProfile != "", "process.apparmorProfile", "the guest's kernel has no AppArmor")
	g.note(p.SelinuxLabel != "", "process.selinuxLabel", "the guest's kernel has no SELinux")
	p.ApparmorProfile = ""
	p.SelinuxLabel = ""
}

func (g *Guest) stripLinux(l *specs.Linux) {
	l.CgroupsPath = ""
	l.MountLabel = ""
	g.note(l.IntelRdt != nil, "linux.intelRdt", "it divides the host's caches")
	l.IntelRdt = nil
	g.note(l.MemoryPolicy != nil, "linux.memoryPolicy", "it numbers the host's nodes")
	l.MemoryPolicy = nil
	if l.Seccomp != nil {
		l.Seccomp.ListenerPath, l.Seccomp.ListenerMetadata = "", ""
	}
	// The VM's own network namespace is the sandbox's; the host's is connected to it from outside.
	l.Namespaces = slices.DeleteFunc(l.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.NetworkNamespace
	})
	g.note(len(l.NetDevices) > 0, "linux.netDevices", "they are the host's")
	l.NetDevices = nil
	g.keepGuestDevices(l)
	if l.Resources != nil {
		g.stripResources(l.Resources)
	}
}

// inContainer begins the guest's path of a namespace that is another container's.
const inContainer = "container:"

// shareNamespaces drops the host's paths of namespaces. A further container of a pod joins those of the pod's first
// one instead, as it would on the host.
func shareNamespaces(l *specs.Linux, identity Identity) {
	for i := range l.Namespaces {
		n := &l.Namespaces[i]
		switch n.Type {
		case specs.IPCNamespace, specs.UTSNamespace, specs.PIDNamespace, specs.UserNamespace:
			if n.Path != "" && identity.Kind == Member {
				n.Path = inContainer + identity.Sandbox
				continue
			}
		}
		n.Path = ""
	}
}

func (g *Guest) stripResources(r *specs.LinuxResources) {
	g.note(r.Network != nil, "linux.resources.network", "cgroup version 2 has no such limit")
	g.note(len(r.Rdma) > 0, "linux.resources.rdma", "it names the host's devices")
	r.BlockIO, r.Network, r.Rdma = nil, nil, nil
	r.Devices = slices.DeleteFunc(r.Devices, func(d specs.LinuxDeviceCgroup) bool { return !g.keepRule(d) })
	if r.CPU == nil {
		return
	}
	// These number the host's, and hold the VMM there.
	r.CPU.Cpus, r.CPU.Mems = "", ""
	// Realtime scheduling groups exist in cgroup v1 only.
	g.note(r.CPU.RealtimePeriod != nil || r.CPU.RealtimeRuntime != nil, "linux.resources.cpu.realtime…", "cgroup version 2 has no such limit")
	r.CPU.RealtimePeriod, r.CPU.RealtimeRuntime = nil, nil
}

// keepRule keeps what denies, what holds for all devices, and what allows one that is the same in the guest.
func (g *Guest) keepRule(d specs.LinuxDeviceCgroup) bool {
	if !d.Allow || d.Major == nil || *d.Major < 0 {
		return true
	}
	const terminals = 136 // major number of /dev/pts/N
	if d.Type == "c" && *d.Major == terminals {
		return true
	}
	if d.Minor != nil && slices.Contains(guestDevices, deviceNumber{d.Type, *d.Major, *d.Minor}) {
		return true
	}
	minor := "*"
	if d.Minor != nil && *d.Minor >= 0 {
		minor = fmt.Sprint(*d.Minor)
	}
	g.note(true, fmt.Sprintf("the rule that allows device %s %d:%s", d.Type, *d.Major, minor), "the device is the host's")
	return false
}

// deviceNumber is a device node's kind and numbers.
type deviceNumber struct {
	kind         string
	major, minor int64
}

// guestDevices have the same numbers in every Linux, so the guest's own is meant as much as the host's.
var guestDevices = []deviceNumber{
	{"c", 1, 3}, {"c", 1, 5}, {"c", 1, 7}, {"c", 1, 8}, {"c", 1, 9}, {"c", 1, 11}, // null zero full random urandom kmsg
	{"c", 5, 0}, {"c", 5, 2}, // tty ptmx
	{"c", 10, 200}, {"c", 10, 229}, // net/tun fuse
}

// keepGuestDevices drops the device nodes that would be other devices in the guest than on the host.
func (g *Guest) keepGuestDevices(l *specs.Linux) {
	l.Devices = slices.DeleteFunc(l.Devices, func(d specs.LinuxDevice) bool {
		if slices.Contains(guestDevices, deviceNumber{d.Type, d.Major, d.Minor}) || d.Type == "p" {
			return false
		}
		g.Notes = append(g.Notes, fmt.Sprintf("device %s (%s %d:%d) is the host's and not passed through", d.Path, d.Type, d.Major, d.Minor))
		return true
	})
}

// HostRoot is the root's path on the host when no mounts were given for it, as CRI-O does.
func HostRoot(bundle string, spec *specs.Spec) (string, error) {
	switch p := spec.Root.Path; {
	case p == "":
		return "", errors.New("the specification has no root.path, and no mounts were given for the root")
	case filepath.IsAbs(p):
		return p, nil
	default:
		return filepath.Join(bundle, p), nil
	}
}
