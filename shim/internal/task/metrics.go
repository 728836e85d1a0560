package task

import (
	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	"github.com/huskvm/husk/shim/internal/hostcgroup"
)

// metrics gives the guest's numbers, which are of cgroup v2, the type that the host's clients expect: that of
// the host's own cgroups.
func metrics(s *agentv1.StatsResponse) (*anypb.Any, error) {
	var m proto.Message = metricsV1(s)
	if hostcgroup.Unified() {
		m = metricsV2(s)
	}
	return typeurl.MarshalAnyToProto(m)
}

func metricsV2(s *agentv1.StatsResponse) *v2.Metrics {
	cpu, memory, pids := s.GetCpu(), s.GetMemory(), s.GetPids()
	stat := memory.GetStat()
	m := &v2.Metrics{
		Pids: &v2.PidsStat{Current: pids.GetCurrent(), Limit: pids.GetLimit()},
		CPU: &v2.CPUStat{
			UsageUsec: cpu.GetUsageUsec(), UserUsec: cpu.GetUserUsec(), SystemUsec: cpu.GetSystemUsec(),
			NrPeriods: cpu.GetNrPeriods(), NrThrottled: cpu.GetNrThrottled(), ThrottledUsec: cpu.GetThrottledUsec(),
		},
		Memory: &v2.MemoryStat{
			Usage: memory.GetUsage(), UsageLimit: memory.GetLimit(),
			SwapUsage: memory.GetSwapUsage(), SwapLimit: memory.GetSwapLimit(),
			Anon: stat["anon"], File: stat["file"], KernelStack: stat["kernel_stack"], Slab: stat["slab"], Sock: stat["sock"],
			Shmem: stat["shmem"], FileMapped: stat["file_mapped"], FileDirty: stat["file_dirty"],
			FileWriteback: stat["file_writeback"], AnonThp: stat["anon_thp"],
			InactiveAnon: stat["inactive_anon"], ActiveAnon: stat["active_anon"],
			InactiveFile: stat["inactive_file"], ActiveFile: stat["active_file"], Unevictable: stat["unevictable"],
			SlabReclaimable: stat["slab_reclaimable"], SlabUnreclaimable: stat["slab_unreclaimable"],
			Pgfault: stat["pgfault"], Pgmajfault: stat["pgmajfault"],
			WorkingsetRefault: stat["workingset_refault_file"], WorkingsetActivate: stat["workingset_activate_file"],
			WorkingsetNodereclaim: stat["workingset_nodereclaim"],
			Pgrefill:              stat["pgrefill"], Pgscan: stat["pgscan"], Pgsteal: stat["pgsteal"],
			Pgactivate: stat["pgactivate"], Pgdeactivate: stat["pgdeactivate"],
			Pglazyfree: stat["pglazyfree"], Pglazyfreed: stat["pglazyfreed"],
			ThpFaultAlloc: stat["thp_fault_alloc"], ThpCollapseAlloc: stat["thp_collapse_alloc"],
		},
		MemoryEvents: &v2.MemoryEvents{
			Low: memory.GetEvents()["low"], High: memory.GetEvents()["high"], Max: memory.GetEvents()["max"],
			Oom: memory.GetEvents()["oom"], OomKill: memory.GetEvents()["oom_kill"],
		},
		Io: &v2.IOStat{},
	}
	for _, io := range s.GetIo() {
		m.Io.Usage = append(m.Io.Usage, &v2.IOEntry{
			Major: uint64(io.Major), Minor: uint64(io.Minor),
			Rbytes: io.Rbytes, Wbytes: io.Wbytes, Rios: io.Rios, Wios: io.Wios,
		})
	}
	for _, n := range s.GetNetwork() {
		m.Network = append(m.Network, &v2.NetworkStat{
			Name:    n.Name,
			RxBytes: n.RxBytes, RxPackets: n.RxPackets, RxErrors: n.RxErrors, RxDropped: n.RxDropped,
			TxBytes: n.TxBytes, TxPackets: n.TxPackets, TxErrors: n.TxErrors, TxDropped: n.TxDropped,
		})
	}
	return m
}

// metricsV1 says the same in cgroup v1's terms, whose times are in nanoseconds and whose cache is file memory.
func metricsV1(s *agentv1.StatsResponse) *v1.Metrics {
	cpu, memory, pids := s.GetCpu(), s.GetMemory(), s.GetPids()
	stat, events := memory.GetStat(), memory.GetEvents()
	const nanoseconds = 1000
	m := &v1.Metrics{
		Pids: &v1.PidsStat{Current: pids.GetCurrent(), Limit: pids.GetLimit()},
		CPU: &v1.CPUStat{
			Usage: &v1.CPUUsage{
				Total: cpu.GetUsageUsec() * nanoseconds, User: cpu.GetUserUsec() * nanoseconds, Kernel: cpu.GetSystemUsec() * nanoseconds,
			},
			Throttling: &v1.Throttle{
				Periods: cpu.GetNrPeriods(), ThrottledPeriods: cpu.GetNrThrottled(), ThrottledTime: cpu.GetThrottledUsec() * nanoseconds,
			},
		},
		Memory: &v1.MemoryStat{
			Usage: &v1.MemoryEntry{Usage: memory.GetUsage(), Limit: memory.GetLimit(), Failcnt: events["max"]},
			Swap: &v1.MemoryEntry{
				// In v1 this is memory and swap together.
				Usage: memory.GetUsage() + memory.GetSwapUsage(), Limit: sum(memory.GetLimit(), memory.GetSwapLimit()),
			},
			Kernel: &v1.MemoryEntry{Usage: stat["kernel"]}, KernelTCP: &v1.MemoryEntry{Usage: stat["sock"]},
			Cache: stat["file"], RSS: stat["anon"], RSSHuge: stat["anon_thp"], MappedFile: stat["file_mapped"],
			Dirty: stat["file_dirty"], Writeback: stat["file_writeback"],
			PgFault: stat["pgfault"], PgMajFault: stat["pgmajfault"],
			InactiveAnon: stat["inactive_anon"], ActiveAnon: stat["active_anon"],
			InactiveFile: stat["inactive_file"], ActiveFile: stat["active_file"], Unevictable: stat["unevictable"],
			HierarchicalMemoryLimit: memory.GetLimit(), HierarchicalSwapLimit: sum(memory.GetLimit(), memory.GetSwapLimit()),
			TotalCache: stat["file"], TotalRSS: stat["anon"], TotalRSSHuge: stat["anon_thp"], TotalMappedFile: stat["file_mapped"],
			TotalDirty: stat["file_dirty"], TotalWriteback: stat["file_writeback"],
			TotalPgFault: stat["pgfault"], TotalPgMajFault: stat["pgmajfault"],
			TotalInactiveAnon: stat["inactive_anon"], TotalActiveAnon: stat["active_anon"],
			TotalInactiveFile: stat["inactive_file"], TotalActiveFile: stat["active_file"], TotalUnevictable: stat["unevictable"],
		},
		MemoryOomControl: &v1.MemoryOomControl{OomKill: events["oom_kill"]},
		Blkio:            &v1.BlkIOStat{},
	}
	for _, io := range s.GetIo() {
		entry := func(op string, value uint64) *v1.BlkIOEntry {
			return &v1.BlkIOEntry{Op: op, Major: uint64(io.Major), Minor: uint64(io.Minor), Value: value}
		}
		m.Blkio.IoServiceBytesRecursive = append(m.Blkio.IoServiceBytesRecursive, entry("Read", io.Rbytes), entry("Write", io.Wbytes))
		m.Blkio.IoServicedRecursive = append(m.Blkio.IoServicedRecursive, entry("Read", io.Rios), entry("Write", io.Wios))
	}
	for _, n := range s.GetNetwork() {
		m.Network = append(m.Network, &v1.NetworkStat{
			Name:    n.Name,
			RxBytes: n.RxBytes, RxPackets: n.RxPackets, RxErrors: n.RxErrors, RxDropped: n.RxDropped,
			TxBytes: n.TxBytes, TxPackets: n.TxPackets, TxErrors: n.TxErrors, TxDropped: n.TxDropped,
		})
	}
	return m
}

// sum does not wrap: all ones is no limit.
func sum(a, b uint64) uint64 {
	if s := a + b; s >= a {
		return s
	}
	return ^uint64(0)
}
