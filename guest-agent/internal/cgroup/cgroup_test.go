package cgroup

import (
	"runtime"
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

// As a C compiler lays the bit fields out: __u8 dst_reg:4, src_reg:4.
func TestRegistersAreInTheOrderOfTheKernelsBitFields(t *testing.T) {
	program := []instruction{{registers: regMajor | regContext<<4}}
	want := map[string]uint8{"s390x": 0x51}[runtime.GOARCH]
	if want == 0 {
		want = 0x15 // every other architecture husk runs on is little-endian
	}
	if got := encode(program)[0].registers; got != want {
		t.Errorf("got %#x, want %#x", got, want)
	}
	if program[0].registers != 0x15 {
		t.Error("encode changed the program")
	}
}
