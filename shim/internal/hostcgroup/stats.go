package hostcgroup

import (
	"fmt"

	"github.com/containerd/errdefs"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
)

// Stats are what the VMM and its helpers use on the host, in the form in which a guest gives its own.
func (c *Cgroup) Stats() (*agentv1.StatsResponse, error) {
	if c.manager == nil {
		return nil, fmt.Errorf("the sandbox has no cgroup to account its use: %w", errdefs.ErrFailedPrecondition)
	}
	s, err := c.manager.GetStats()
	if err != nil {
		return nil, fmt.Errorf("read cgroup %s: %w", c.path, err)
	}
	const nanoseconds = 1000
	cpu, memory := s.CpuStats, s.MemoryStats
	stat := memory.Stats
	if !Unified() && stat != nil {
		// Version 1 has other names for these.
		stat["anon"], stat["file"] = stat["total_rss"], stat["total_cache"]
		for _, key := range []string{"inactive_file", "active_file", "inactive_anon", "active_anon", "pgfault", "pgmajfault"} {
			stat[key] = stat["total_"+key]
		}
	}
	return &agentv1.StatsResponse{
		Cpu: &agentv1.StatsResponse_CPU{
			UsageUsec:  cpu.CpuUsage.TotalUsage / nanoseconds,
			UserUsec:   cpu.CpuUsage.UsageInUsermode / nanoseconds,
			SystemUsec: cpu.CpuUsage.UsageInKernelmode / nanoseconds,
			NrPeriods:  cpu.ThrottlingData.Periods, NrThrottled: cpu.ThrottlingData.ThrottledPeriods,
			ThrottledUsec: cpu.ThrottlingData.ThrottledTime / nanoseconds,
		},
		Memory: &agentv1.StatsResponse_Memory{
			Usage: memory.Usage.Usage, Limit: memory.Usage.Limit,
			SwapUsage: memory.SwapOnlyUsage.Usage, SwapLimit: memory.SwapOnlyUsage.Limit, Stat: stat,
		},
		Pids: &agentv1.StatsResponse_PIDs{Current: s.PidsStats.Current, Limit: s.PidsStats.Limit},
	}, nil
}
