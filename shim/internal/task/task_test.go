package task

import (
	"math"
	"strings"
	"testing"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
)

func anyOf(t *testing.T, m proto.Message, url string) *anypb.Any {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return &anypb.Any{TypeUrl: url, Value: data}
}

func TestRuntimeOptions(t *testing.T) {
	generic := &runtimeoptions.Options{ConfigPath: "/p", ConfigBody: []byte("b")}
	for _, test := range []struct {
		name string
		any  *anypb.Any
		path string
	}{
		{"none", nil, ""},
		{"empty", &anypb.Any{}, ""},
		{"generic", anyOf(t, generic, "runtimeoptions.v1.Options"), "/p"},
		{"generic of containerd 1.6", anyOf(t, generic, "cri.runtimeoptions.v1.Options"), "/p"},
		{"generic with a host", anyOf(t, generic, "type.googleapis.com/runtimeoptions.v1.Options"), "/p"},
		{"runc's", anyOf(t, &options.Options{SystemdCgroup: true}, "containerd.runc.v1.Options"), ""},
	} {
		got, err := readOptions(test.any)
		if err != nil || got.path != test.path {
			t.Errorf("%s: %+v, %v", test.name, got, err)
		}
	}
	got, err := readOptions(anyOf(t, &options.Options{SystemdCgroup: true, ShimCgroup: "/shims"}, "containerd.runc.v1.Options"))
	if err != nil || !got.systemd || got.shimCgroup != "/shims" {
		t.Errorf("runc's options of cgroups: %+v, %v", got, err)
	}
}

// As containerd's CRI plugin passes the table of a runtime that it does not know.
func TestRuntimeOptionsInTheEnginesTable(t *testing.T) {
	body := "SystemdCgroup = true\nShimCgroup = '/shims'\nTypeUrl = 'x'\ndefault_memory = '1GiB'\n"
	got, err := readOptions(anyOf(t, &runtimeoptions.Options{ConfigBody: []byte(body)}, "runtimeoptions.v1.Options"))
	if err != nil || !got.systemd || got.shimCgroup != "/shims" || strings.TrimSpace(string(got.body)) != "default_memory = '1GiB'" {
		t.Errorf("%+v, %v; the rest is %q", got, err, got.body)
	}
	for _, body := range []string{"", "# nothing\nvmm = 'kvm'", "no TOML", "SystemdCgroup = 'yes'"} {
		got, err := readOptions(anyOf(t, &runtimeoptions.Options{ConfigBody: []byte(body)}, "runtimeoptions.v1.Options"))
		if err != nil || got.systemd || string(got.body) != body {
			t.Errorf("%q: %+v, %v", body, got, err)
		}
	}
}

func TestUnknownRuntimeOptionsAreNamed(t *testing.T) {
	for _, a := range []*anypb.Any{{TypeUrl: "kata.v1.Options"}, {TypeUrl: "runtimeoptions.v1.Options", Value: []byte{0xff}}} {
		_, err := readOptions(a)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), a.TypeUrl) {
			t.Errorf("%s: %v", a.TypeUrl, err)
		}
	}
}

var guestStats = &agentv1.StatsResponse{
	Cpu: &agentv1.StatsResponse_CPU{UsageUsec: 3, UserUsec: 2, SystemUsec: 1, ThrottledUsec: 4},
	Memory: &agentv1.StatsResponse_Memory{
		Usage: 100, Limit: math.MaxUint64, SwapUsage: 10, SwapLimit: math.MaxUint64,
		Stat:   map[string]uint64{"anon": 60, "file": 40, "inactive_file": 30},
		Events: map[string]uint64{"oom_kill": 1, "max": 2},
	},
	Pids: &agentv1.StatsResponse_PIDs{Current: 5},
	Io:   []*agentv1.StatsResponse_IO{{Major: 254, Rbytes: 7, Wbytes: 8}},
}

func TestMetricsOfAUnifiedHost(t *testing.T) {
	m := metricsV2(guestStats)
	if m.CPU.UsageUsec != 3 || m.Memory.Usage != 100 || m.Memory.InactiveFile != 30 || m.MemoryEvents.OomKill != 1 ||
		m.Pids.Current != 5 || m.Io.Usage[0].Wbytes != 8 {
		t.Errorf("%v", m)
	}
}

func TestMetricsOfAV1HostAreInItsUnits(t *testing.T) {
	m := metricsV1(guestStats)
	if m.CPU.Usage.Total != 3000 || m.CPU.Throttling.ThrottledTime != 4000 {
		t.Errorf("times are in nanoseconds: %v", m.CPU)
	}
	if m.Memory.Usage.Usage != 100 || m.Memory.Swap.Usage != 110 || m.Memory.Swap.Limit != math.MaxUint64 {
		t.Errorf("swap is memory and swap together, and no limit stays none: %v", m.Memory)
	}
	if m.Memory.TotalInactiveFile != 30 || m.Memory.RSS != 60 || m.Memory.Cache != 40 {
		t.Errorf("%v", m.Memory)
	}
	if m.Blkio.IoServiceBytesRecursive[1].Op != "Write" || m.Blkio.IoServiceBytesRecursive[1].Value != 8 {
		t.Errorf("%v", m.Blkio)
	}
}

func TestMetricsOfNothingDoNotPanic(t *testing.T) {
	a, err := metrics(&agentv1.StatsResponse{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := typeurl.UnmarshalAny(a)
	if err != nil {
		t.Fatal(err)
	}
	switch m.(type) {
	case *v1.Metrics, *v2.Metrics:
	default:
		t.Errorf("type %T", m)
	}
}
