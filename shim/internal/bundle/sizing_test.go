package bundle

import (
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/huskvm/husk/shim/internal/config"
)

func TestAPodIsSizedByWhatCRISaysOfIt(t *testing.T) {
	const mib = 1 << 20
	pod := func(quota, period, memory string) *specs.Spec {
		s := minimal()
		s.Annotations = map[string]string{sandboxQuota: quota, sandboxPeriod: period, sandboxMemory: memory, sandboxShares: "1536"}
		return s
	}
	for _, test := range []struct {
		name    string
		spec    *specs.Spec
		want    Size
		limited bool
	}{
		{"both", pod("150000", "100000", "268435456"), Size{2, (256 + 96 + 4) * mib}, true},
		{"best effort", pod("0", "100000", "0"), Size{1, 512 * mib}, false},
		{"no numbers", pod("much", "", "more"), Size{1, 512 * mib}, false},
		{"no period", pod("300000", "", "-1"), Size{3, 512 * mib}, false},
	} {
		got, err := SizeOf(test.spec, defaults(), Host{})
		if err != nil || got != test.want || HasMemoryLimit(test.spec) != test.limited || Shares(test.spec) != 1536 {
			t.Errorf("%s: %+v, %v; want %+v", test.name, got, err, test.want)
		}
	}
	own := pod("150000", "100000", "268435456")
	own.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(64 * mib))}
	if got, err := SizeOf(own, defaults(), Host{}); err != nil || got != (Size{2, (64 + 96 + 2) * mib}) {
		t.Errorf("a limit of its own: %+v, %v", got, err)
	}
}

func TestAPodIsSizedByWhatCRIOSaysOfIt(t *testing.T) {
	const mib = 1 << 20
	for _, test := range []struct {
		resources string
		want      Size
		shares    uint64
	}{
		{`{"cpu_period":100000,"cpu_quota":250000,"cpu_shares":1536,"memory_limit_in_bytes":268435456}`, Size{3, (256 + 96 + 4) * mib}, 1536},
		{`{"cpu_period":100000,"cpu_shares":512}`, Size{1, 512 * mib}, 512},
		{`{}`, Size{1, 512 * mib}, 2},
		{`null`, Size{1, 512 * mib}, 2},
		{`{"memory_limit_in_bytes":"much","cpu_shares":512}`, Size{1, 512 * mib}, 2},
	} {
		for _, key := range crioResources {
			s := minimal()
			s.Annotations = map[string]string{key: test.resources}
			s.Linux.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(2))}} // of its infra container
			if got, err := SizeOf(s, defaults(), Host{}); err != nil || got != test.want || Shares(s) != test.shares {
				t.Errorf("%s: %s: %+v, %d, %v; want %+v, %d", key, test.resources, got, Shares(s), err, test.want, test.shares)
			}
		}
	}
}

func TestAVMIsNoLargerThanTheHost(t *testing.T) {
	const gib = 1 << 30
	host := Host{CPUs: 2, Memory: 4*gib + 12345}
	s := minimal()
	s.Linux.Resources = &specs.LinuxResources{
		CPU:    &specs.LinuxCPU{Quota: ptr(int64(800_000)), Period: ptr(uint64(100_000))},
		Memory: &specs.LinuxMemory{Limit: ptr(int64(64 * gib))},
	}
	if got, err := SizeOf(s, defaults(), host); err != nil || got != (Size{2, 4 * gib}) {
		t.Errorf("limits: %+v, %v", got, err)
	}
	s.Annotations = map[string]string{config.AnnotationMemory: "64GiB"}
	if _, err := SizeOf(s, defaults(), host); err == nil || !strings.Contains(err.Error(), "the host has no more than") {
		t.Errorf("annotation: %v", err)
	}
}

func TestUpdatesStayWithinTheVM(t *testing.T) {
	s := minimal()
	s.Linux.Resources = &specs.LinuxResources{
		CPU:    &specs.LinuxCPU{Quota: ptr(int64(800_000)), Period: ptr(uint64(100_000))},
		Memory: &specs.LinuxMemory{Limit: ptr(int64(600 << 20))},
	}
	size := Size{2, 512 << 20}
	for _, test := range []struct{ json, refused string }{
		{`{"memory":{"limit":67108864}}`, ""},
		{`{"memory":{"limit":-1}}`, ""},
		{`{"memory":{"limit":629145600}}`, ""}, // what it was made with
		{`{"memory":{"limit":629145601}}`, config.AnnotationMemory},
		{`{"cpu":{"quota":200000,"period":100000}}`, ""},
		{`{"cpu":{"quota":800000}}`, ""},
		{`{"cpu":{"quota":200001,"period":100000}}`, config.AnnotationVCPUs},
		{`{"pids":{"limit":7}}`, ""},
		{`{`, "parse resources"},
	} {
		u, err := UpdateOf([]byte(test.json), s, nil, size, defaults())
		if test.refused == "" && err != nil || test.refused != "" && (err == nil || !strings.Contains(err.Error(), test.refused)) {
			t.Errorf("%s: %+v, %v", test.json, u, err)
		}
	}
	u, err := UpdateOf([]byte(`{"cpu":{"cpus":"0-1","mems":"0","shares":512}}`), s, nil, size, defaults())
	if err != nil || u.Cpus != "0-1" || u.Mems != "0" || u.Shares != 512 || strings.Contains(string(u.Guest), "0-1") {
		t.Errorf("%+v, %s, %v", u, u.Guest, err)
	}
}
