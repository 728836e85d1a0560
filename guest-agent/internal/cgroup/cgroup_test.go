package cgroup

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestLimitsAreTranslatedToVersion2(t *testing.T) {
	for _, c := range []struct {
		name string
		in   specs.LinuxResources
		want map[string]string
	}{
		{"nothing", specs.LinuxResources{}, map[string]string{}},
		{"quota", specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: new(int64(50000)), Period: new(uint64(100000))}},
			map[string]string{"cpu.max": "50000 100000"}},
		{"quota lifted", specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: new(int64(-1))}},
			map[string]string{"cpu.max": "max"}},
		{"shares", specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: new(uint64(1024))}},
			map[string]string{"cpu.weight": "100"}},
		{"memory and swap", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(100)), Swap: new(int64(150))}},
			map[string]string{"memory.max": "100", "memory.swap.max": "50"}},
		{"swap without a limit of memory", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(-1)), Swap: new(int64(150))}},
			map[string]string{"memory.max": "max", "memory.swap.max": "150"}},
		{"no swap", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(100)), Swap: new(int64(100))}},
			map[string]string{"memory.max": "100", "memory.swap.max": "0"}},
		{"swap not said", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(100)), Reservation: new(int64(50))}},
			map[string]string{"memory.max": "100", "memory.low": "50"}},
		{"memory lifted and swap not said", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(-1))}},
			map[string]string{"memory.max": "max", "memory.swap.max": "max"}},
		{"idle", specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: new(int64(1)), Shares: new(uint64(1024))}},
			map[string]string{"cpu.idle": "1"}},
		{"burst, processors, nodes", specs.LinuxResources{CPU: &specs.LinuxCPU{Burst: new(uint64(500)), Cpus: "0-1", Mems: "0"}},
			map[string]string{"cpu.max.burst": "500", "cpuset.cpus": "0-1", "cpuset.mems": "0"}},
		{"huge pages", specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}}},
			map[string]string{"hugetlb.2MB.max": "4194304", "hugetlb.2MB.rsvd.max": "4194304"}},
		{"block devices", specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{
			Weight: new(uint16(1000)), ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{throttle(254, 16, 4096)}}},
			map[string]string{"io.bfq.weight": "1000", "io.max": "254:16 rbps=4096"}},
		{"rdma", specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"mlx": {HcaHandles: new(uint32(2)), HcaObjects: new(uint32(9))}}},
			map[string]string{"rdma.max": "mlx hca_handle=2 hca_object=9"}},
		{"memory lifted", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(-1)), Swap: new(int64(-1))}},
			map[string]string{"memory.max": "max", "memory.swap.max": "max"}},
		{"pids", specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(7))}}, map[string]string{"pids.max": "7"}},
		{"pids lifted", specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(-1))}},
			map[string]string{"pids.max": "max"}},
		{"unified", specs.LinuxResources{Unified: map[string]string{"memory.high": "5"}},
			map[string]string{"memory.high": "5"}},
	} {
		list, err := settings(&c.in)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got := map[string]string{}
		for _, s := range list {
			got[s.file] = s.value
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}

func throttle(major, minor int64, rate uint64) specs.LinuxThrottleDevice {
	d := specs.LinuxThrottleDevice{Rate: rate}
	d.Major, d.Minor = major, minor
	return d
}

func TestASwapLimitThatCanNotBeIsAnError(t *testing.T) {
	for _, m := range []specs.LinuxMemory{
		{Swap: new(int64(100))},
		{Limit: new(int64(200)), Swap: new(int64(100))},
	} {
		if list, err := settings(&specs.LinuxResources{Memory: &m}); err == nil || !strings.Contains(err.Error(), "memory.swap") {
			t.Errorf("got %v, %v", list, err)
		}
	}
}

func TestWeightsOfBlockDevicesHaveAFallback(t *testing.T) {
	for weight, want := range map[uint16]string{10: "1", 100: "910", 500: "4950", 1000: "10000"} {
		if got := weightSetting("", weight).fallback; got.file != "io.weight" || got.value != want {
			t.Errorf("weight %d: %+v", weight, got)
		}
	}
}

// TestABurstIsSetOnBothSidesOfItsQuota: it may be neither above the old quota nor above the new one.
func TestABurstIsSetOnBothSidesOfItsQuota(t *testing.T) {
	var files []string
	for _, s := range cpuSettings(&specs.LinuxCPU{Quota: new(int64(1000)), Burst: new(uint64(500))}) {
		files = append(files, s.file)
	}
	if d := cmp.Diff([]string{"cpu.max.burst", "cpu.max", "cpu.max.burst"}, files); d != "" {
		t.Error(d)
	}
}

func TestUnifiedKeysStayInTheGroup(t *testing.T) {
	for _, key := range []string{"../memory.max", "cgroup", "a/b.c"} {
		if _, err := settings(&specs.LinuxResources{Unified: map[string]string{key: "1"}}); err == nil {
			t.Errorf("%q was accepted", key)
		}
	}
}

func TestSharesAndWeightAgreeAtTheirEnds(t *testing.T) {
	for shares, want := range map[uint64]uint64{1: 1, 2: 1, 1024: 100, 262144: 10000, 1 << 30: 10000} {
		if got := weight(shares); got != want {
			t.Errorf("weight of %d shares: %d, want %d", shares, got, want)
		}
	}
}

func TestContainersLeaveThreads(t *testing.T) {
	for most, want := range map[int]int{32768: 32512, 2048: 1792, 1600: 1400, 400: 350} {
		if got := containersShare(most); got != want {
			t.Errorf("of %d threads: %d, want %d", most, got, want)
		}
	}
}

func TestIOStatisticsAreReadByDevice(t *testing.T) {
	got := parseIO("254:0 rbytes=4096 wbytes=1 rios=2 wios=3 dbytes=0 dios=0\n7:1 \nbad\n")
	if len(got) != 2 || got[0].Major != 254 || got[0].Rbytes != 4096 || got[0].Wios != 3 || got[1].Minor != 1 {
		t.Errorf("got %v", got)
	}
}

func TestAnIDThatIsNoFileNameMakesNoGroup(t *testing.T) {
	for _, id := range []string{"", ".", "..", "a/b", "a\n"} {
		if _, err := New(id); err == nil {
			t.Errorf("%q was accepted", id)
		}
	}
}

func TestDeviceRulesThatMakeNoSenseAreErrors(t *testing.T) {
	for _, r := range []specs.LinuxDeviceCgroup{{Type: "x"}, {Access: "rx"}} {
		if _, err := deviceProgram([]specs.LinuxDeviceCgroup{r}); err == nil {
			t.Errorf("%+v was accepted", r)
		}
	}
}
