package cri

import (
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// listedStats are the statistics of a pod's containers by their names, as the kubelet asks for them.
func (p *pod) listedStats() map[string]*cri.ContainerStats {
	p.t.Helper()
	r, err := runtime.ListContainerStats(testContext(p.t), &cri.ListContainerStatsRequest{Filter: &cri.ContainerStatsFilter{PodSandboxId: p.id}})
	if err != nil {
		p.t.Fatalf("stats of the pod's containers: %v", err)
	}
	byName := make(map[string]*cri.ContainerStats)
	for _, s := range r.Stats {
		byName[s.GetAttributes().GetMetadata().GetName()] = s
	}
	return byName
}

// What kubectl top shows: the kubelet takes it from here.
func TestStatisticsOfAPod(t *testing.T) {
	p := newPod(t, func(c *cri.PodSandboxConfig) { c.Linux.CgroupParent = "/k8s.io/pod-of-stats" })
	const holds, wrote = 40 << 20, 24 << 20
	busy := p.start(shell("busy", "while :; do :; done"))
	full := p.start(shell("full", "head -c 40m /dev/zero | tr '\\0' x > /dev/shm/full; echo full; "+idle))
	writer := p.start(shell("writer", "dd if=/dev/urandom of=/file bs=1M count=24 2>/dev/null; echo wrote; "+idle))
	full.says("full")
	writer.says("wrote")

	t.Run("CPU", func(t *testing.T) {
		// A rate takes two looks, and is of the time between them. The emulated processor has one core.
		eventually(t, "the busy one uses more than the idle one, and no more than there is", func() bool {
			all := p.listedStats()
			b, i := all["busy"].GetCpu(), all["full"].GetCpu()
			rate := b.GetUsageNanoCores().GetValue()
			return rate > 50e6 && rate < 2e9 && rate > 3*i.GetUsageNanoCores().GetValue() &&
				b.GetUsageCoreNanoSeconds().GetValue() > i.GetUsageCoreNanoSeconds().GetValue()
		})
	})
	t.Run("memory", func(t *testing.T) {
		all := p.listedStats()
		f, b := all["full"].GetMemory(), all["busy"].GetMemory()
		if n := f.GetWorkingSetBytes().GetValue(); n < holds || n > holds+(24<<20) {
			t.Errorf("the one with %d bytes in memory has a working set of %d", holds, n)
		}
		if n := b.GetWorkingSetBytes().GetValue(); n == 0 || n > 16<<20 {
			t.Errorf("a loop has a working set of %d", n)
		}
		if f.GetUsageBytes().GetValue() < f.GetWorkingSetBytes().GetValue() {
			t.Errorf("usage %v", f)
		}
	})
	t.Run("writable layer", func(t *testing.T) {
		// The engine looks now and then.
		eventually(t, "what was written to the root is counted", func() bool {
			l := p.listedStats()["writer"].GetWritableLayer()
			n := l.GetUsedBytes().GetValue()
			return n >= wrote && n < wrote+(1<<20) && l.GetInodesUsed().GetValue() > 0
		})
		if n := p.listedStats()["busy"].GetWritableLayer().GetUsedBytes().GetValue(); n > 1<<20 {
			t.Errorf("the one that wrote nothing has %d bytes", n)
		}
	})
	t.Run("lists", func(t *testing.T) {
		all := p.listedStats()
		if len(all) != 3 {
			t.Errorf("stats %v", all)
		}
		for name, listed := range all {
			r, err := runtime.ContainerStats(testContext(t), &cri.ContainerStatsRequest{ContainerId: listed.GetAttributes().GetId()})
			if err != nil {
				t.Fatal(err)
			}
			if got := r.GetStats().GetCpu().GetUsageCoreNanoSeconds().GetValue(); got < listed.GetCpu().GetUsageCoreNanoSeconds().GetValue() || got == 0 {
				t.Errorf("%s has used %d, after %v", name, got, listed)
			}
		}
		pods, err := runtime.ListPodSandboxStats(testContext(t), &cri.ListPodSandboxStatsRequest{Filter: &cri.PodSandboxStatsFilter{Id: p.id}})
		if err != nil {
			t.Fatal(err)
		}
		if len(pods.Stats) != 1 || len(pods.Stats[0].GetLinux().GetContainers()) != 3 {
			t.Fatalf("stats %v", pods.Stats)
		}
	})
	t.Run("pod", func(t *testing.T) {
		eventually(t, "the pod uses what its containers do, and more", func() bool {
			r, err := runtime.PodSandboxStats(testContext(t), &cri.PodSandboxStatsRequest{PodSandboxId: p.id})
			if err != nil {
				t.Fatal(err)
			}
			l := r.GetStats().GetLinux()
			return l.GetCpu().GetUsageNanoCores().GetValue() > 50e6 && l.GetMemory().GetWorkingSetBytes().GetValue() > holds+wrote/2 &&
				l.GetProcess().GetProcessCount().GetValue() > 0
		})
	})
	t.Run("of one that has ended", func(t *testing.T) {
		busy.stop(0)
		busy.expectExit(137)
		all := p.listedStats()
		if all["full"].GetMemory().GetWorkingSetBytes().GetValue() < holds || all["busy"].GetMemory().GetWorkingSetBytes().GetValue() != 0 {
			t.Errorf("stats %v", all)
		}
	})
}
