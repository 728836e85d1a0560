package bundle

import (
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	criv1 "github.com/huskvm/husk/proto/husk/cri/v1"
	"github.com/huskvm/husk/shim/internal/config"
)

func TestAPodsSpecificationIsTheSandboxes(t *testing.T) {
	spec, err := PodSpec("pod", "k8s.io", "/run/netns/x", &criv1.PodSandboxConfig{
		Hostname:    "web",
		Annotations: map[string]string{"io.husk.vcpus": "2", "other": "x"},
		Linux: &criv1.LinuxPodSandboxConfig{
			CgroupParent: "/kubepods/pod1", Sysctls: map[string]string{"a": "b"},
			Resources: &criv1.LinuxContainerResources{CpuPeriod: 100, CpuQuota: 250, MemoryLimitInBytes: 1 << 30},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if Identify("pod", spec.Annotations) != (Identity{"pod", Pod}) || spec.Annotations["other"] != "" {
		t.Errorf("annotations %v", spec.Annotations)
	}
	if spec.Hostname != "web" || spec.Linux.CgroupsPath != "/kubepods/pod1/pod" || spec.Linux.Sysctl["a"] != "b" {
		t.Errorf("%+v", spec)
	}
	if !slices.Contains(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/run/netns/x"}) {
		t.Errorf("namespaces %v", spec.Linux.Namespaces)
	}
	c := &config.Config{DefaultVCPUs: 1, DefaultMemory: 256 << 20, GuestReserve: 96 << 20}
	delete(spec.Annotations, "io.husk.vcpus")
	if size, err := SizeOf(spec, c, Host{}); err != nil || size.VCPUs != 3 || size.Memory < 1<<30+96<<20 {
		t.Errorf("size %+v, %v", size, err)
	}
}

func TestAPodsCgroupIsNamedAsTheCRIPluginDoes(t *testing.T) {
	for parent, want := range map[string]string{
		"/kubepods/pod1":                 "/kubepods/pod1/id",
		"":                               "/ns/id",
		"/kubepods.slice/kubepods.slice": "kubepods.slice:cri-containerd:id",
	} {
		if got := podCgroup("id", "ns", parent); got != want {
			t.Errorf("%s: %s", parent, got)
		}
	}
}

func TestAPodWithAUserNamespaceIsRefused(t *testing.T) {
	_, err := PodSpec("pod", "ns", "", &criv1.PodSandboxConfig{Linux: &criv1.LinuxPodSandboxConfig{
		SecurityContext: &criv1.LinuxSandboxSecurityContext{NamespaceOptions: &criv1.NamespaceOption{UsernsOptions: &criv1.UserNamespace{}}},
	}})
	if !errdefs.IsNotImplemented(err) {
		t.Errorf("error %v", err)
	}
}

func TestPodFilesDoNotReplaceTheContainersOwn(t *testing.T) {
	spec := &specs.Spec{Root: &specs.Root{Readonly: true}, Mounts: []specs.Mount{
		{Type: "bind", Source: "/own", Destination: "/etc/hosts"}, {Type: "tmpfs", Destination: "/dev/shm"},
	}}
	UsePodFiles(spec, "pod", "/files")
	got := map[string]string{}
	for _, m := range spec.Mounts {
		got[m.Destination] = m.Source
	}
	if len(spec.Mounts) != 4 || got["/etc/hosts"] != "/own" || got["/etc/hostname"] != "/files/hostname" ||
		got["/etc/resolv.conf"] != "/files/resolv.conf" || got["/dev/shm"] != "/files/pod/shm" {
		t.Errorf("%v", spec.Mounts)
	}
}

func TestResolvConf(t *testing.T) {
	got := ResolvConf(&criv1.DNSConfig{Servers: []string{"192.0.2.1", "192.0.2.2"}, Searches: []string{"a", "b"}, Options: []string{"ndots:5"}})
	if want := "search a b\nnameserver 192.0.2.1\nnameserver 192.0.2.2\noptions ndots:5\n"; got != want {
		t.Errorf("%q", got)
	}
	if got := ResolvConf(nil); got != "" {
		t.Errorf("without a configuration: %q", got)
	}
}
