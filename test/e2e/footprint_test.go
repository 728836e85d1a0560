package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// footprint is what the husk command says that a sandbox uses, by metric.
func footprint(t *testing.T, id string) map[string]float64 {
	t.Helper()
	values := map[string]float64{}
	for line := range strings.Lines(output(t, filepath.Join(*bin, "husk"), "metrics")) {
		name, rest, _ := strings.Cut(line, "{")
		labels, value, ok := strings.Cut(strings.TrimSpace(rest), "} ")
		if !ok || !strings.Contains(labels, fmt.Sprintf("sandbox=%q", id)) {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		values[name] += n
	}
	return values
}

func TestTheGuestsUseIsToldApartFromWhatHuskAdds(t *testing.T) {
	b := start(t, []string{"--memory-limit", strconv.Itoa(128 << 20)}, "sleep", "1000")
	idle, charged := footprint(t, b.id), hostCPU(t, b.id)
	b.exec(t, "sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done")
	spun := footprint(t, b.id)
	charged = hostCPU(t, b.id) - charged
	vcpu, overhead := spun["husk_vcpu_seconds_total"]-idle["husk_vcpu_seconds_total"], spun["husk_overhead_seconds_total"]-idle["husk_overhead_seconds_total"]
	t.Logf("%.2f s by the cgroup: %.2f of the vCPU, %.2f beside it; %.0f MiB of the guest, %.1f beside it", charged, vcpu, overhead,
		spun["husk_guest_memory_bytes"]/(1<<20), spun["husk_overhead_memory_bytes"]/(1<<20))
	if sum := vcpu + overhead; vcpu < 5*overhead || sum < charged*0.9 || sum > charged*1.1 {
		t.Errorf("of %.2f s of CPU time, %.2f are the vCPU's and %.2f beside it", charged, vcpu, overhead)
	}
	guest, size := spun["husk_guest_memory_bytes"], spun["husk_vm_memory_bytes"]
	if guest < 16<<20 || guest > size || spun["husk_overhead_memory_bytes"] < 1<<20 || spun["husk_shim_memory_bytes"] < 1<<20 {
		t.Errorf("%v", spun)
	}
}

// hostCPU is what the sandbox's cgroup has used, in seconds.
func hostCPU(t *testing.T, sandbox string) float64 {
	t.Helper()
	pid := boundProcesses(t, sandbox)[0]
	file := cgroupFile(t, pid, "cpuacct", "cpuacct.usage", "cpu.stat")
	text, err := os.ReadFile(file)
	var usec uint64
	if _, serr := fmt.Sscanf(string(text), "usage_usec %d", &usec); err == nil && serr == nil {
		return float64(usec) / 1e6
	}
	return float64(readNumber(t, file)) / 1e9
}

// switches counts how often the threads of a sandbox's processes have gone to sleep, but for the vCPUs, whose guest is
// its own affair.
func switches(t *testing.T, pids []int) (n int) {
	t.Helper()
	for _, pid := range pids {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		for _, task := range tasks {
			name, _ := os.ReadFile(task + "/comm")
			if strings.HasPrefix(string(name), "vcpu ") || strings.HasPrefix(string(name), "CPU ") {
				continue
			}
			text, _ := os.ReadFile(task + "/status")
			for line := range strings.Lines(string(text)) {
				if value, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
					k, err := strconv.Atoi(strings.TrimSpace(value))
					if err != nil {
						t.Fatal(err)
					}
					n += k
				}
			}
		}
	}
	return n
}

// What polls would spoil every window; a wake-up now and then, such as Go's for its garbage every two minutes, spoils
// one.
func TestAnIdleVMWakesNobody(t *testing.T) {
	b := start(t, nil, "sleep", "1000")
	b.exec(t, "true")
	const window = 5 * time.Second
	// QEMU wakes up for the timers of the guest's kernel, and emulates them.
	for who, pids := range map[string][]int{"the shim": pidsOf(t, b.id, shimName), "the VMM": pidsOf(t, b.id, vmmName)} {
		var counts []int
		eventually(t, who+" sleeps through five seconds", func() bool {
			before := switches(t, pids)
			time.Sleep(window)
			counts = append(counts, switches(t, pids)-before)
			return counts[len(counts)-1] <= 2
		})
		t.Logf("%s wakes up %v times in %v", who, counts, window)
	}
}

// Nor does it wake up by itself: its agent sleeps, and so does the kernel's compaction.
func TestAnIdleGuestSleeps(t *testing.T) {
	s := script(t, `[ "$(tr -d '\0' </proc/1/cmdline)" = /init ] || exit 2
sum() { n=0; for k in $(sed -n 's/^voluntary_ctxt_switches:[^0-9]*//p' /proc/$1/task/*/status); do n=$((n+k)); done; echo $n; }
sleeps() {
	for i in 1 2 3 4 5 6 7 8; do a=$(sum $1); sleep 5; n=$(($(sum $1)-a)); echo $n; [ $n -gt 2 ] || return 0; done
	return 1
}
sleeps 1 && sleeps $(pidof kcompactd0)`)
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
	res := runSpec(t, s)
	t.Logf("in five seconds they wake up %q times", strings.Fields(res.Stdout))
	if res.Status != 0 {
		t.Errorf("%+v", res)
	}
}
