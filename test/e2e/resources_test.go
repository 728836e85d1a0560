package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/huskvm/husk/test/rig"
)

// cgroupOf is the path of a process's cgroup in a controller's hierarchy, as /proc tells it.
func cgroupOf(t *testing.T, pid int, controller string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	unified := ""
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if slices.Contains(strings.Split(f[1], ","), controller) {
			return f[2]
		}
		if f[1] == "" {
			unified = f[2]
		}
	}
	return unified
}

// cgroupFile finds a file of a process's cgroup by its name on cgroup v1 or on v2; empty is none.
func cgroupFile(t *testing.T, pid int, controller, v1, v2 string) string {
	t.Helper()
	path := cgroupOf(t, pid, controller)
	for _, name := range []string{filepath.Join(controller, path, v1), filepath.Join(path, v2)} {
		if name = filepath.Join("/sys/fs/cgroup", name); exists(name) {
			return name
		}
	}
	return ""
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func readNumber(t *testing.T, path string) uint64 {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return n
}

// named is a name for a cgroup, as a flag for ctr run, and what its path ends with on the host.
func named(t *testing.T) (flags []string, ending string) {
	id := newID(t)
	if *driver == "systemd" {
		return []string{"--cgroup", "system.slice:husk:" + id}, "/system.slice/husk-" + id + ".scope"
	}
	t.Cleanup(func() { // the parent is the engine's
		for _, pattern := range []string{"/sys/fs/cgroup/husk-e2e", "/sys/fs/cgroup/*/husk-e2e"} {
			parents, _ := filepath.Glob(pattern)
			for _, parent := range parents {
				_ = os.Remove(parent)
			}
		}
	})
	return []string{"--cgroup", "/husk-e2e/" + id}, "/husk-e2e/" + id
}

func TestTheVMMIsInTheCgroupThatTheEngineNamed(t *testing.T) {
	// The first one makes the parent, which is the engine's and stays.
	flags, _ := named(t)
	shared.Run(testContext(t), newID(t), flags, "true")
	before := census(t)
	flags, ending := named(t)
	flags = append(flags, "--memory-limit", strconv.Itoa(64<<20))
	b := start(t, flags, "sleep", "1000")
	pids := boundProcesses(t, b.id)
	if len(pids) < len(victims())-1 {
		t.Fatalf("processes %v", pids)
	}
	for _, pid := range pids {
		for _, controller := range []string{"cpu", "memory", "pids"} {
			if path := cgroupOf(t, pid, controller); !strings.HasSuffix(path, ending) {
				t.Errorf("process %d is in %s for %s, want %s", pid, path, controller, ending)
			}
		}
	}
	if f := cgroupFile(t, pids[0], "memory", "memory.limit_in_bytes", "memory.max"); f == "" {
		t.Error("the host has no memory controller")
	} else if got, want := readNumber(t, f), uint64(64+96+1+1+64)<<20; got != want {
		t.Errorf("on the host the sandbox may use %d bytes of memory, want %d", got, want)
	}
	ctr(t, "task", "kill", "-s", "SIGKILL", b.id)
	if res := b.wait(t); res.Status != 137 {
		t.Errorf("%+v", res)
	}
	before.Expect(t)
	expectNoUnits(t)
}

// expectNoUnits says that systemd remembers no scope of husk's, as it would a failed one.
func expectNoUnits(t *testing.T) {
	t.Helper()
	if *driver != "systemd" {
		return
	}
	eventually(t, "no unit of husk's is left", func() bool {
		return strings.TrimSpace(output(t, "systemctl", "list-units", "--all", "--no-legend", "--plain", "husk-*.scope")) == ""
	})
}

func TestSystemdThatIsNotThereIsSaid(t *testing.T) {
	if exists("/run/systemd/system") {
		t.Skip("systemd runs here")
	}
	before := census(t)
	args := rig.RunArgs(newID(t), []string{"--cgroup", "system.slice:husk:none"}, "true")
	refused(t, args, "systemd does not run", "SystemdCgroup")
	before.Expect(t)
}

func TestCPUQuotaHolds(t *testing.T) {
	const quota = 50_000 // microseconds of each 100 000
	b := start(t, []string{"--cpus", "0.5"}, "sh", "-c", "while :; do :; done")
	var begin, end usage
	eventually(t, "the container is throttled", func() bool {
		begin = metricsOf(t, b.id)
		return begin.throttled > 1
	})
	eventually(t, "thirty periods have passed", func() bool {
		end = metricsOf(t, b.id)
		return end.periods >= begin.periods+30
	})
	got, want := float64(end.cpu-begin.cpu), float64(end.periods-begin.periods)*quota
	if got < want*0.9 || got > want*1.1 {
		t.Errorf("it has used %.0f µs of the %.0f in %d periods", got, want, end.periods-begin.periods)
	}
}

func TestOutOfMemoryInTheGuestIs137AndTold(t *testing.T) {
	events := watchEvents(t)
	ctrRun(t, nil, "true")
	id := detachedWith(t, []string{"--memory-limit", strconv.Itoa(64 << 20)}, "dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1")
	eventually(t, "the exit is told", func() bool {
		_, ok := events.exit(id)
		return ok
	})
	if status, _ := events.exit(id); status != 137 {
		t.Errorf("status %d", status)
	}
	if !slices.Contains(events.topics(id), "/tasks/oom") {
		t.Errorf("no OOM event: %q", events.topics(id))
	}
	if mark := filepath.Join(shared.StateDir(), "io.containerd.runtime.v2.task/default", id, "oom"); !exists(mark) {
		t.Errorf("there is no %s", mark)
	}
	// As long as it is not deleted. containerd's CRI plugin asks for it.
	if m := metricsOf(t, id); m.oomKills != 1 || m.cpu == 0 {
		t.Errorf("afterwards metrics say %d killed, and %d µs of CPU", m.oomKills, m.cpu)
	}
}

func TestPidsLimitHolds(t *testing.T) {
	b := start(t, nil, "sleep", "1000")
	update(t, b.id, `{"pids":{"limit":8}}`)
	res, err := exec.Command(shared.Ctr(testContext(t)).Path, "--address", shared.Address(), "task", "exec", "--exec-id", "forks", b.id,
		"sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1000 >/dev/null 2>&1 & done; echo all").CombinedOutput()
	if strings.Contains(string(res), "all") || !strings.Contains(string(res), "fork") {
		t.Errorf("ten processes are there: %v: %s", err, res)
	}
	if m := metricsOf(t, b.id); m.pidsLimit != 8 || m.pids > 8 {
		t.Errorf("metrics say %d of %d processes", m.pids, m.pidsLimit)
	}
}

func TestLimitsAreUpdatedWithinTheVM(t *testing.T) {
	b := start(t, []string{"--cpus", "0.5", "--memory-limit", strconv.Itoa(128 << 20)}, "sleep", "1000")
	const mib = 1 << 20
	for _, limit := range []uint64{64 * mib, 128 * mib, 96 * mib} {
		update(t, b.id, fmt.Sprintf(`{"memory":{"limit":%d}}`, limit))
		if m := metricsOf(t, b.id); m.limit != limit {
			t.Errorf("memory limit is %d, want %d", m.limit, limit)
		}
	}
	update(t, b.id, `{"cpu":{"quota":100000,"period":100000}}`)
	update(t, b.id, `{"cpu":{"quota":20000,"period":100000,"shares":512,"cpus":"0"}}`)
	if f := cgroupFile(t, boundProcesses(t, b.id)[0], "cpuset", "cpuset.cpus", "cpuset.cpus"); f != "" {
		if text, err := os.ReadFile(f); err != nil || strings.TrimSpace(string(text)) != "0" {
			t.Errorf("the VMM's CPUs are %q, %v", text, err)
		}
	}
	for change, want := range map[string]string{
		`{"memory":{"limit":1073741824}}`: "does not fit into the VM",
		`{"cpu":{"quota":300000}}`:        "does not fit into the VM",
	} {
		if err := tryUpdate(t, b.id, change); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", change, err)
		}
	}
	if m := metricsOf(t, b.id); m.limit != 96*mib {
		t.Errorf("a refused update has left a limit of %d", m.limit)
	}
}

func TestMetricsAgreeWithTheWorkload(t *testing.T) {
	const held = 100 << 20
	b := start(t, []string{"--memory-limit", strconv.Itoa(192 << 20)}, "sh", "-c",
		"i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; times; exec sleep 1000")
	var cpu usage
	var last uint64
	eventually(t, "the loop has ended", func() bool {
		cpu = metricsOf(t, b.id)
		idle := cpu.cpu == last && cpu.cpu > 500_000
		last = cpu.cpu
		return idle
	})
	go func() {
		_ = shared.Ctr(testContext(t), "task", "exec", "--exec-id", "holder", b.id, "sh", "-c",
			"dd if=/dev/zero bs=100M count=1 2>/dev/null | sleep 1000").Run()
	}()
	var memory usage
	eventually(t, "100 MiB are held", func() bool {
		memory = metricsOf(t, b.id)
		return memory.anon >= held
	})
	grown := memory.anon - cpu.anon
	if grown > held*105/100 {
		t.Errorf("metrics say %d bytes more, the workload holds %d", grown, held)
	}
	ctr(t, "task", "kill", "-s", "SIGKILL", b.id)
	told := seconds(t, b.wait(t).Stdout)
	if got := float64(cpu.cpu) / 1e6; got < told*0.95 || got > told*1.05+0.05 {
		t.Errorf("metrics say %.3f s of CPU time, the workload %.3f", got, told)
	}
}

// seconds sums what a shell's times prints, such as "0m2.34s 0m0.10s" twice: its own and its children's.
func seconds(t *testing.T, text string) (sum float64) {
	t.Helper()
	for _, word := range strings.Fields(text) {
		minutes, rest, ok := strings.Cut(strings.TrimSuffix(word, "s"), "m")
		m, err1 := strconv.ParseFloat(minutes, 64)
		s, err2 := strconv.ParseFloat(rest, 64)
		if !ok || err1 != nil || err2 != nil {
			t.Fatalf("times prints %q", text)
		}
		sum += 60*m + s
	}
	return sum
}

func TestMemoryComesBackToTheHost(t *testing.T) {
	b := start(t, []string{"--annotation", "io.husk.memory=1GiB"}, "sleep", "1000")
	pids := pidsOf(t, b.id, vmmName)
	if *backend == "qemu" {
		pids = pidsOf(t, b.id, qemuName)
	}
	const mib = 1 << 20
	ctr(t, "task", "exec", "--exec-id", "warm", b.id, "true")
	before := resident(t, pids[0])
	ctr(t, "task", "exec", "--exec-id", "big", b.id, "sh", "-c", "dd if=/dev/zero bs=512M count=1 2>/dev/null | (read -n 1 x; echo $x)")
	peak := resident(t, pids[0])
	eventually(t, "the memory is the host's again", func() bool { return resident(t, pids[0]) < before+64*mib })
	t.Logf("resident: %d MiB, %d right after, %d in the end", before/mib, peak/mib, resident(t, pids[0])/mib)
}

// resident is a process's memory, in bytes.
func resident(t *testing.T, pid int) uint64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); f[0] == "VmRSS:" {
			n, err := strconv.ParseUint(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatalf("process %d has no memory", pid)
	return 0
}

func TestOutOfMemoryOnTheHostIs137AndTold(t *testing.T) {
	before := census(t)
	events := watchEvents(t)
	b := start(t, nil, "sh", "-c", "sleep 1000")
	pid := boundProcesses(t, b.id)[0]
	limit := cgroupFile(t, pid, "memory", "memory.limit_in_bytes", "memory.max")
	if limit == "" {
		t.Skip("the host has no memory controller")
	}
	used := readNumber(t, cgroupFile(t, pid, "memory", "memory.usage_in_bytes", "memory.current"))
	if err := os.WriteFile(limit, fmt.Append(nil, used+8<<20), 0); err != nil {
		t.Fatal(err)
	}
	_ = shared.Ctr(testContext(t), "task", "exec", "--exec-id", "big", b.id, "dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1").Run()
	if res := b.wait(t); res.Status != 137 {
		t.Errorf("status %d: %s", res.Status, res.Stderr)
	}
	eventually(t, "the exit is told", func() bool {
		_, ok := events.exit(b.id)
		return ok
	})
	topics := events.topics(b.id)
	oom, exit := slices.Index(topics, "/tasks/oom"), slices.Index(topics, "/tasks/exit")
	if oom < 0 || oom > exit && !slices.Contains(topics[:oom], "/tasks/exec-added") {
		t.Errorf("events are %q", topics)
	}
	before.Expect(t)
	expectNoUnits(t)
}
