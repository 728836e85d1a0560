package bundle

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	criv1 "github.com/huskvm/husk/proto/husk/cri/v1"
)

// PauseRoot is the root of what stands for the pod in a guest without a pause container: a file system with nothing in
// it but /proc, where the agent's own binary is found as what a new process executes before its program.
const PauseRoot = "/run/husk/pause"

// PodSpec makes the specification of the process that holds a pod's namespaces, for a pod that the Sandbox API asks
// for; the engine has no container for it. netns is empty for the host's network.
func PodSpec(id, namespace, netns string, c *criv1.PodSandboxConfig) (*specs.Spec, error) {
	linux := c.GetLinux()
	modes := linux.GetSecurityContext().GetNamespaceOptions()
	if modes.GetUsernsOptions() != nil && modes.GetUsernsOptions().GetMode() == criv1.NamespaceMode_POD {
		return nil, fmt.Errorf(`a pod with a user namespace (hostUsers: false) needs sandboxer = "podsandbox": %w`, errdefs.ErrNotImplemented)
	}
	l := &specs.Linux{
		CgroupsPath: podCgroup(id, namespace, linux.GetCgroupParent()),
		Sysctl:      linux.GetSysctls(),
		Namespaces: []specs.LinuxNamespace{
			{Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.PIDNamespace},
		},
	}
	if netns != "" {
		l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: netns})
	}
	return &specs.Spec{
		Version:     specs.Version,
		Hostname:    c.GetHostname(),
		Root:        &specs.Root{Path: PauseRoot, Readonly: true},
		Process:     &specs.Process{Args: []string{"/proc/self/exe", "pause"}, Cwd: "/"},
		Mounts:      []specs.Mount{{Type: "proc", Source: "proc", Destination: "/proc", Options: []string{"nosuid", "noexec", "nodev"}}},
		Linux:       l,
		Annotations: podAnnotationsOf(id, c),
	}, nil
}

// podAnnotationsOf are those that husk reads itself.
func podAnnotationsOf(id string, c *criv1.PodSandboxConfig) map[string]string {
	a := map[string]string{podAnnotations[0].kind: "sandbox", podAnnotations[0].sandbox: id}
	for key, value := range c.GetAnnotations() {
		if strings.HasPrefix(key, "io.husk.") {
			a[key] = value
		}
	}
	if r := c.GetLinux().GetResources(); r != nil {
		a[sandboxPeriod], a[sandboxQuota] = fmt.Sprint(r.CpuPeriod), fmt.Sprint(r.CpuQuota)
		a[sandboxMemory] = fmt.Sprint(r.MemoryLimitInBytes)
	}
	return a
}

// podCgroup is what the CRI plugin names a pod's cgroup.
func podCgroup(id, namespace, parent string) string {
	if base := path.Base(parent); strings.HasSuffix(base, ".slice") {
		return base + ":cri-containerd:" + id
	}
	if parent == "" {
		parent = namespace
	}
	return path.Join("/", parent, id)
}

// PodFiles are the files that the engine leaves to the sandbox to have, by their names below /etc.
var PodFiles = []string{"hostname", "hosts", "resolv.conf"}

// ResolvConf is resolv.conf as the pod's configuration asks for it; empty when it does not.
func ResolvConf(c *criv1.DNSConfig) string {
	var text strings.Builder
	if len(c.GetSearches()) > 0 {
		fmt.Fprintf(&text, "search %s\n", strings.Join(c.Searches, " "))
	}
	for _, server := range c.GetServers() {
		fmt.Fprintf(&text, "nameserver %s\n", server)
	}
	if len(c.GetOptions()) > 0 {
		fmt.Fprintf(&text, "options %s\n", strings.Join(c.Options, " "))
	}
	return text.String()
}

// UsePodFiles gives a container of the pod what the engine leaves to the sandbox: the files in dir, and the shared
// memory. What the container has of its own in their places stays.
func UsePodFiles(spec *specs.Spec, sandbox, dir string) {
	mounted := func(destination string) bool {
		return slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool { return path.Clean(m.Destination) == destination })
	}
	how := "rw"
	if spec.Root.Readonly {
		how = "ro"
	}
	for _, name := range PodFiles {
		if destination := "/etc/" + name; !mounted(destination) {
			spec.Mounts = append(spec.Mounts, specs.Mount{
				Type: "bind", Source: filepath.Join(dir, name), Destination: destination, Options: []string{"bind", "rprivate", how},
			})
		}
	}
	const shm = "/dev/shm"
	spec.Mounts = slices.DeleteFunc(spec.Mounts, func(m specs.Mount) bool {
		return m.Type == "tmpfs" && path.Clean(m.Destination) == shm
	})
	if !mounted(shm) {
		// There is no such directory, and need not be: see isSharedMemory.
		spec.Mounts = append(spec.Mounts, specs.Mount{
			Type: "bind", Source: filepath.Join(dir, sandbox, "shm"), Destination: shm, Options: []string{"rbind", "rw"},
		})
	}
}
