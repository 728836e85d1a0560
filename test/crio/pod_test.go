package crio

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// container is one of a pod; the pod's own is its infra container.
type container struct {
	*runtimeVM
	pod  *pod
	spec *specs.Spec
	stdio
	rootfs string
	pid    uint32
}

// pod is what CRI-O's server keeps of one: namespaces that it has pinned, shared memory and files that it has made.
type pod struct {
	t          *testing.T
	n          int32
	id         string
	infra      *container
	containers []*container // without the infra container; in the order of their creation
	namespaces []string
	resources  string // the annotation
	shm        int    // size of the shared memory in KiB
	mounts     []string
	unmounted  bool
}

var serial atomic.Int32

// runDir is where CRI-O's storage has a container's bundle.
func runDir(id string) string {
	return filepath.Join(state, "run", "overlay-containers", id, "userdata")
}

// newPod is RunPodSandbox.
func newPod(t *testing.T, edits ...func(*pod, *specs.Spec)) *pod {
	t.Helper()
	p := &pod{t: t, n: serial.Add(1), id: newID(), shm: 64 << 10}
	t.Cleanup(p.cleanUp)
	p.pinNamespaces()
	spec := p.baseSpec(p.id, "sandbox")
	spec.Root.Readonly = true
	spec.Hostname = fmt.Sprint("pod", p.n)
	spec.Process.Args = []string{"/bin/sh", "-c", "trap exit INT TERM; echo ready; while :; do busybox sleep 3600 & wait; done"}
	if os.WriteFile("/proc/self/oom_score_adj", []byte("-998"), 0) == nil { // a root without CAP_SYS_RESOURCE can't
		_ = os.WriteFile("/proc/self/oom_score_adj", []byte("0"), 0)
		spec.Process.OOMScoreAdj = pointer(-998)
	}
	spec.Linux.Resources.CPU = &specs.LinuxCPU{Shares: pointer(uint64(2))}
	for _, edit := range edits {
		edit(p, spec)
	}
	spec.Annotations["io.kubernetes.cri-o.PodLinuxResources"] = p.resources
	must(t, os.MkdirAll(runDir(p.id), 0o700))
	must(t, os.WriteFile(p.file("hostname"), []byte(spec.Hostname+"\n"), 0o644))
	must(t, os.WriteFile(p.file("resolv.conf"), []byte("search test.example\nnameserver 192.0.2.53\n"), 0o644))
	must(t, os.MkdirAll(p.file("shm"), 0o700))
	p.mount("shm", p.file("shm"), "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=1777,size=%dk", p.shm))
	p.shareFiles(spec)
	p.infra = p.create(p.id, spec, layer("pause"), false)
	must(t, p.infra.start(""))
	p.infra.says("ready") // to be stopped
	return p
}

// file is one that CRI-O makes for all of the pod.
func (p *pod) file(name string) string { return filepath.Join(runDir(p.id), name) }

// pinNamespaces does what pinns does.
func (p *pod) pinNamespaces() {
	p.t.Helper()
	args := []string{}
	for _, kind := range []string{"ipc", "uts", "net"} {
		path := fmt.Sprintf("/run/%sns/%s", kind, p.id)
		must(p.t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(p.t, os.WriteFile(path, nil, 0o444))
		p.namespaces = append(p.namespaces, path)
		args = append(args, fmt.Sprintf("--%s=%s", kind, path))
	}
	p.run("unshare", append(args, "true")...)
	// In the place of CNI's plugins: one end in the pod, the other here, which is the gateway.
	host, netns := fmt.Sprint("crio", p.n), fmt.Sprint("--net=", p.namespaces[2])
	p.run("nsenter", netns, "ip", "link", "set", "lo", "up")
	p.run("ip", "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", p.namespaces[2])
	p.run("ip", "address", "add", p.address(1)+"/24", "dev", host)
	p.run("ip", "link", "set", host, "up")
	p.run("nsenter", netns, "ip", "address", "add", p.address(2)+"/24", "dev", "eth0")
	p.run("nsenter", netns, "ip", "link", "set", "eth0", "up")
	p.run("nsenter", netns, "ip", "route", "add", "default", "via", p.address(1))
}

// address is the pod's with 2, and its gateway's with 1.
func (p *pod) address(host int) string { return fmt.Sprintf("10.89.%d.%d", p.n%256, host) }

func (p *pod) run(name string, args ...string) {
	p.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		p.t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
}

func (p *pod) mount(source, target, kind string, flags uintptr, data string) {
	p.t.Helper()
	must(p.t, unix.Mount(source, target, kind, flags, data))
	p.mounts = append(p.mounts, target)
}

// baseSpec is what CRI-O generates for every container.
func (p *pod) baseSpec(id, kind string) *specs.Spec {
	capabilities := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_KILL", "CAP_NET_RAW"}
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{},
		Process: &specs.Process{
			Cwd: "/", Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=" + fmt.Sprint("pod", p.n)},
			Capabilities: &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/kubepods/" + p.id[:12] + "/crio-" + id,
			Resources:   &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace},
				{Type: specs.IPCNamespace, Path: p.namespaces[0]}, {Type: specs.UTSNamespace, Path: p.namespaces[1]},
				{Type: specs.NetworkNamespace, Path: p.namespaces[2]},
			},
			Seccomp: &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
				{Names: []string{"keyctl", "mount", "bpf"}, Action: specs.ActErrno},
			}},
			MaskedPaths:   []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
		Annotations: map[string]string{
			"io.kubernetes.cri-o.ContainerType":  kind,
			"io.kubernetes.cri-o.ContainerID":    id,
			"io.kubernetes.cri-o.SandboxID":      p.id,
			"io.kubernetes.cri-o.RuntimeHandler": "husk",
			"io.container.manager":               "cri-o",
			"io.kubernetes.pod.name":             fmt.Sprint("pod", p.n),
		},
	}
}

// shareFiles mounts what is the pod's.
func (p *pod) shareFiles(s *specs.Spec) {
	s.Mounts = append(s.Mounts,
		specs.Mount{Destination: "/dev/shm", Type: "bind", Source: p.file("shm"), Options: []string{"rw", "bind"}},
		specs.Mount{Destination: "/etc/resolv.conf", Type: "bind", Source: p.file("resolv.conf"), Options: []string{"ro", "bind", "nodev", "nosuid", "noexec"}},
		specs.Mount{Destination: "/etc/hostname", Type: "bind", Source: p.file("hostname"), Options: []string{"ro", "bind", "nodev", "nosuid", "noexec"}},
	)
}

// create is CreateContainer: storage mounts the root, and the shim is called for.
func (p *pod) create(id string, spec *specs.Spec, lower string, stdin bool) *container {
	p.t.Helper()
	c, err := p.tryCreate(id, spec, lower, stdin)
	if err != nil {
		p.t.Fatalf("create container: %v", err)
	}
	return c
}

func (p *pod) tryCreate(id string, spec *specs.Spec, lower string, stdin bool) (*container, error) {
	c := &container{pod: p, spec: spec, rootfs: filepath.Join(state, "storage", id, "merged")}
	upper, work := filepath.Join(state, "storage", id, "diff"), filepath.Join(state, "storage", id, "work")
	for _, dir := range []string{c.rootfs, upper, work, runDir(id)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	p.mount("overlay", c.rootfs, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work))
	spec.Root.Path = c.rootfs
	data, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(runDir(id), "config.json"), data, 0o600); err != nil {
		return nil, err
	}
	if c.runtimeVM, err = startShim(id, runDir(id)); err != nil {
		return nil, err
	}
	if c.stdio, err = newStdio(id, spec.Process.Terminal, stdin); err != nil {
		return nil, err
	}
	if c.pid, err = c.runtimeVM.create(c.stdio); err != nil {
		c.stdio.close()
		return nil, err
	}
	// CRI-O keeps the time of its start.
	_, err = os.Stat(fmt.Sprintf("/proc/%d/stat", c.pid))
	return c, err
}

// shell is a container of the pod that runs a script, and how its specification is edited before.
func (p *pod) shell(script string, edits ...func(*specs.Spec)) *container {
	p.t.Helper()
	id := newID()
	spec := p.memberSpec(id, "sh", "-c", script)
	stdin := false
	for _, edit := range edits {
		edit(spec)
	}
	_, stdin = spec.Annotations["io.kubernetes.cri-o.Stdin"]
	c := p.create(id, spec, layer("image"), stdin)
	p.containers = append(p.containers, c)
	must(p.t, c.start(""))
	return c
}

func (p *pod) memberSpec(id string, args ...string) *specs.Spec {
	spec := p.baseSpec(id, "container")
	spec.Process.Args = args
	p.shareFiles(spec)
	return spec
}

// withStdin asks for a standard input.
func withStdin(s *specs.Spec) { s.Annotations["io.kubernetes.cri-o.Stdin"] = "true" }

// expectExit waits for the container's end, and for the state that CRI-O then asks for.
func (c *container) expectExit(want int) {
	c.pod.t.Helper()
	got, err := c.wait("")
	if err != nil || got != want {
		c.pod.t.Fatalf("exit status %d, %v; want %d", got, err, want)
	}
	s, err := c.status()
	if err != nil || s.Status.String() != "STOPPED" || int(s.ExitStatus) != want || time.Since(s.ExitedAt.AsTime()) > time.Hour {
		c.pod.t.Errorf("state %v, %v", s, err)
	}
	if c.alive() {
		c.pod.t.Error("signal 0 finds a container that has ended")
	}
}

// exec is ExecSync.
func (c *container) exec(script string) (stdout string, code int) {
	c.pod.t.Helper()
	process := *c.spec.Process
	process.Args = []string{"sh", "-c", script}
	code, stdout, stderr, err := c.execCommon(process, false, nil, 0)
	if err != nil {
		c.pod.t.Fatalf("exec %q: %v", script, err)
	}
	return stdout + stderr, code
}

func (c *container) expectOutput(want, script string) {
	c.pod.t.Helper()
	if got, code := c.exec(script); got != want || code != 0 {
		c.pod.t.Errorf("%s: %q, status %d; want %q", script, got, code, want)
	}
}

// says waits until the container has said it.
func (c *container) says(text string) {
	c.pod.t.Helper()
	eventually(c.pod.t, fmt.Sprintf("it says %q", text), func() bool { return strings.Contains(c.out.String(), text) })
}

// removeContainer is RemoveContainer, of one that has ended: its root is taken away before it is deleted.
func (p *pod) removeContainer(c *container) {
	p.t.Helper()
	must(p.t, unix.Unmount(c.rootfs, unix.MNT_DETACH))
	p.delete(c)
	p.containers = slices.DeleteFunc(p.containers, func(o *container) bool { return o == c })
}

func (p *pod) delete(c *container) {
	p.t.Helper()
	c.stdio.close()
	must(p.t, c.runtimeVM.remove())
	p.forget(c.id)
}

// forget removes what storage has of a container.
func (p *pod) forget(id string) {
	p.t.Helper()
	root := filepath.Join(state, "storage", id)
	_ = unix.Unmount(filepath.Join(root, "merged"), unix.MNT_DETACH)
	must(p.t, os.RemoveAll(root))
	must(p.t, os.RemoveAll(filepath.Dir(runDir(id))))
}

// remove is StopPodSandbox and RemovePodSandbox.
func (p *pod) remove() {
	p.t.Helper()
	all := append(p.containers, p.infra)
	for _, c := range all {
		if s, err := c.status(); err != nil || s.Status.String() != "STOPPED" {
			must(p.t, c.stop(30*time.Second))
		}
	}
	p.unmount()
	for _, c := range all {
		p.delete(c)
	}
	p.removeCgroup()
}

// unmount is what the stop of a pod takes away while its shim still runs: namespaces, shared memory, roots.
func (p *pod) unmount() {
	if p.unmounted {
		return
	}
	p.unmounted = true
	_ = exec.Command("ip", "link", "del", fmt.Sprint("crio", p.n)).Run()
	for _, path := range p.namespaces {
		_ = unix.Unmount(path, unix.MNT_DETACH)
		_ = os.Remove(path)
	}
	for _, path := range p.mounts {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			p.t.Errorf("unmount %s: %v", path, err)
		}
	}
}

// removeCgroup is the kubelet's part, once the pod's cgroup is empty.
func (p *pod) removeCgroup() {
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*/kubepods/" + p.id[:12])
	for _, dir := range append(dirs, "/sys/fs/cgroup/kubepods/"+p.id[:12]) {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
			p.t.Errorf("remove the pod's cgroup: %v", err)
		}
	}
}

// cleanUp is for tests that fail; CRI-O has nothing like it.
func (p *pod) cleanUp() {
	if p.t.Failed() {
		log := shimLog.String()
		p.t.Logf("the end of the shims' log:\n%s", log[max(0, len(log)-3<<10):])
	}
	if !p.unmounted {
		if p.infra != nil {
			_ = p.infra.kill("", unix.SIGKILL)
		}
		p.unmount()
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func pointer[T any](v T) *T { return &v }
