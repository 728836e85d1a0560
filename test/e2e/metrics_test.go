package e2e

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/anypb"
)

// usage is what metrics say of a container, whatever the host's version of cgroups.
type usage struct {
	cpu, periods, throttled uint64 // cpu in microseconds
	anon, limit             uint64 // bytes
	pids, pidsLimit         uint64
	oomKills                uint64
	network                 []traffic
}

// traffic is what has gone over an interface, in bytes and packets.
type traffic struct {
	Name      string
	RxBytes   uint64 `json:"rx_bytes"`
	RxPackets uint64 `json:"rx_packets"`
	TxBytes   uint64 `json:"tx_bytes"`
	TxPackets uint64 `json:"tx_packets"`
}

type oomKills struct {
	Count uint64 `json:"oom_kill"`
}

// metricsOf asks for a task's metrics as ctr shows them.
func metricsOf(t *testing.T, id string) usage {
	t.Helper()
	var m struct {
		CPU struct {
			UsageUsec   uint64 `json:"usage_usec"`
			NrPeriods   uint64 `json:"nr_periods"`
			NrThrottled uint64 `json:"nr_throttled"`
			Usage       struct{ Total uint64 }
			Throttling  struct {
				Periods          uint64
				ThrottledPeriods uint64 `json:"throttled_periods"`
			}
		}
		Memory struct {
			Anon       uint64
			UsageLimit uint64          `json:"usage_limit"`
			TotalRSS   uint64          `json:"total_rss"`
			Usage      json.RawMessage // a number, or an entry with its limit
		}
		Pids             struct{ Current, Limit uint64 }
		MemoryEvents     oomKills `json:"memory_events"`
		MemoryOOMControl oomKills `json:"memory_oom_control"`
		Network          []traffic
	}
	text := ctr(t, "task", "metrics", "--format", "json", id).Stdout
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	var entry struct{ Limit uint64 }
	_ = json.Unmarshal(m.Memory.Usage, &entry)
	return usage{
		cpu:     m.CPU.UsageUsec + m.CPU.Usage.Total/1000,
		periods: m.CPU.NrPeriods + m.CPU.Throttling.Periods, throttled: m.CPU.NrThrottled + m.CPU.Throttling.ThrottledPeriods,
		anon: m.Memory.Anon + m.Memory.TotalRSS, limit: m.Memory.UsageLimit + entry.Limit,
		pids: m.Pids.Current, pidsLimit: m.Pids.Limit, network: m.Network,
		oomKills: m.MemoryEvents.Count + m.MemoryOOMControl.Count,
	}
}

// update changes a task's limits; ctr can't, so the shim is asked as containerd would.
func update(t *testing.T, id, resources string) {
	t.Helper()
	if err := tryUpdate(t, id, resources); err != nil {
		t.Fatalf("update %s: %v", resources, err)
	}
}

func tryUpdate(t *testing.T, id, resources string) error {
	t.Helper()
	address, err := os.ReadFile(filepath.Join(shared.StateDir(), "io.containerd.runtime.v2.task/default", id, "address"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", strings.TrimPrefix(strings.TrimSpace(string(address)), "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	_, err = taskv3.NewTTRPCTaskClient(client).Update(testContext(t), &taskv3.UpdateTaskRequest{
		ID: id, Resources: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", Value: []byte(resources)},
	})
	return err
}
