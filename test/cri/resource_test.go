package cri

import (
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/huskvm/husk/test/pods"
)

func TestLimitsOfContainers(t *testing.T) {
	p := newPod(t, func(c *cri.PodSandboxConfig) { c.Linux.CgroupParent = "/k8s.io/pod-of-limits" })
	bystander := p.start(shell("bystander", idle))
	limited := shell("limited", idle)
	limited.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 32 << 20, CpuPeriod: 100_000, CpuQuota: 50_000}
	c := p.start(limited)
	c.expectOutput("33554432", "cat /sys/fs/cgroup/memory.max")
	c.expectOutput("50000 100000", "cat /sys/fs/cgroup/cpu.max")

	_, err := runtime.UpdateContainerResources(testContext(t), &cri.UpdateContainerResourcesRequest{
		ContainerId: c.id, Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 48 << 20, CpuPeriod: 100_000, CpuQuota: 70_000},
	})
	if err != nil {
		t.Fatal(err)
	}
	c.expectOutput("50331648", "cat /sys/fs/cgroup/memory.max")
	c.expectOutput("70000 100000", "cat /sys/fs/cgroup/cpu.max")

	r, err := runtime.ContainerStats(testContext(t), &cri.ContainerStatsRequest{ContainerId: c.id})
	if err != nil {
		t.Fatal(err)
	}
	s := r.Stats
	if s.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 || s.GetMemory().GetWorkingSetBytes().GetValue() == 0 ||
		s.GetMemory().GetWorkingSetBytes().GetValue() > 48<<20 {
		t.Errorf("stats %v", s)
	}
	sandbox, err := runtime.PodSandboxStats(testContext(t), &cri.PodSandboxStatsRequest{PodSandboxId: p.id})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(sandbox.GetStats().GetLinux().GetContainers()); n != 2 {
		t.Errorf("the pod's stats have %d containers: %v", n, sandbox.Stats)
	}
	// The pod's own are those of its VM on the host.
	if m := sandbox.GetStats().GetLinux().GetMemory().GetWorkingSetBytes().GetValue(); m < 1<<20 {
		t.Errorf("the pod's memory: %d", m)
	}

	hungry := shell("hungry", "tail /dev/zero")
	hungry.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 16 << 20}
	h := p.start(hungry)
	h.expectExit(137)
	eventually(t, "its reason is OOMKilled", func() bool { return h.status().Reason == "OOMKilled" })
	// containerd counts what the kernel has killed when it knows of an exit.
	if tail, _ := shared.LogTail(500); strings.Contains(tail, "container "+h.id+" if oom event occurred") {
		t.Error("containerd can't have the metrics of a container that has exited")
	}
	for _, other := range []*container{bystander, c} {
		if s := other.status(); s.State != cri.ContainerState_CONTAINER_RUNNING {
			t.Errorf("%s is %s: %s", other.config.Metadata.Name, s.State, s.Reason)
		}
	}
}

// containerd's own options of a runtime, and husk's among them.
func TestOptionsInContainerdsConfiguration(t *testing.T) {
	if *containerd == "" {
		t.Skip("containerd 1.6 does not pass them on")
	}
	p := newPodOf(t, pods.WithOptions)
	c := p.start(shell("main", idle))
	c.expectOutput("less than 192 MiB", "awk '/MemTotal/ {print $2 < 192*1024 ? \"less than 192 MiB\" : $2}' /proc/meminfo")
}

func TestNetworkStatisticsOfAPod(t *testing.T) {
	p := newPod(t, func(c *cri.PodSandboxConfig) { c.Linux.CgroupParent = "/k8s.io/pod-of-pings" })
	c := p.start(shell("pinger", idle))
	eth0 := func() *cri.NetworkInterfaceUsage {
		t.Helper()
		r, err := runtime.PodSandboxStats(testContext(t), &cri.PodSandboxStatsRequest{PodSandboxId: p.id})
		if err != nil {
			t.Fatal(err)
		}
		i := r.GetStats().GetLinux().GetNetwork().GetDefaultInterface()
		if i.GetName() != "eth0" {
			t.Fatalf("stats %v", r.Stats)
		}
		return i
	}
	before := eth0()
	const size = 20 * 1000
	if out, stderr, status := c.exec("ping", "-c", "20", "-s", "1000", "-A", "10.88.0.1"); status != 0 {
		t.Fatalf("%d: %s%s", status, out, stderr)
	}
	eventually(t, "20 echoes were counted both ways", func() bool {
		after := eth0()
		return after.RxBytes.GetValue() >= before.RxBytes.GetValue()+size && after.TxBytes.GetValue() >= before.TxBytes.GetValue()+size
	})
}
