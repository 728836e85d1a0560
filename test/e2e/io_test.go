package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// hostDisk is the number of the disk that the rig's files are on.
func hostDisk(t *testing.T) (major, minor uint32) {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat(shared.Dir(), &stat); err != nil {
		t.Fatal(err)
	}
	major, minor = unix.Major(stat.Dev), unix.Minor(stat.Dev)
	sys := fmt.Sprintf("/sys/dev/block/%d:%d", major, minor)
	if !exists(sys) {
		t.Skipf("%s is on no disk", shared.Dir())
	}
	if exists(sys + "/partition") {
		text, err := os.ReadFile(sys + "/../dev")
		if _, serr := fmt.Sscanf(string(text), "%d:%d", &major, &minor); err != nil || serr != nil {
			t.Fatal(err, serr)
		}
	}
	return major, minor
}

// anyDisk is the number of one that this machine has.
func anyDisk(t *testing.T) (major, minor uint32) {
	t.Helper()
	disks, _ := filepath.Glob("/sys/block/*/dev")
	for _, disk := range disks {
		text, err := os.ReadFile(disk)
		if _, serr := fmt.Sscanf(string(text), "%d:%d", &major, &minor); err == nil && serr == nil {
			return major, minor
		}
	}
	t.Skip("this machine has no disk")
	return 0, 0
}

// How long a write of 4 MiB to the root takes, in seconds by the guest's clock.
const writing = "s() { cut -d' ' -f1 /proc/uptime; }; a=$(s); dd if=/dev/zero of=/f bs=64k count=64 conv=fsync 2>/dev/null; b=$(s); echo $a $b"

func (b *background) timeWriting(t *testing.T) float64 {
	t.Helper()
	f := strings.Fields(b.exec(t, "sh", "-c", writing))
	if len(f) != 2 {
		t.Fatalf("%q", f)
	}
	begin, err1 := strconv.ParseFloat(f[0], 64)
	end, err2 := strconv.ParseFloat(f[1], 64)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return end - begin
}

func TestIOLimitsHoldOnADisk(t *testing.T) {
	needSnapshotter(t, "blockfile")
	major, minor := hostDisk(t)
	b := start(t, []string{"--snapshotter", "blockfile"}, "sleep", "1000")
	free := b.timeWriting(t)
	update(t, b.id, fmt.Sprintf(`{"blockIO":{"throttleWriteBpsDevice":[{"major":%d,"minor":%d,"rate":1048576}]}}`, major, minor))
	limited := b.timeWriting(t)
	t.Logf("4 MiB take %.2f s, and %.2f with 1 MiB/s", free, limited)
	// Some of it the kernel may let through at once.
	if limited < 3.6 || limited > 6+4*free {
		t.Errorf("4 MiB were written in %.2f s, of which 1 MiB/s makes 4", limited)
	}
	update(t, b.id, fmt.Sprintf(`{"blockIO":{"throttleWriteBpsDevice":[{"major":%d,"minor":%d,"rate":0}]}}`, major, minor))
	if again := b.timeWriting(t); again >= limited {
		t.Errorf("when the limit has gone it takes %.2f s", again)
	}
}

// Where the guest has no disk, the VMM serves its files, and is limited on the host.
func TestIOLimitsHoldTheVMMOnTheHost(t *testing.T) {
	major, minor := anyDisk(t)
	s := newSpec(t, "sleep", "1000")
	limit := specs.LinuxThrottleDevice{Rate: 32 << 20}
	limit.Major, limit.Minor = int64(major), int64(minor)
	s.Linux.Resources.BlockIO = &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{limit}}
	args := bare(t, "io.containerd.husk.v2", s)
	id := args[len(args)-1]
	cmd := shared.Ctr(testContext(t), args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = shared.Ctr(testContext(t), "task", "kill", "-s", "SIGKILL", id).Run()
		_ = cmd.Wait()
	}()
	eventually(t, "the container runs", func() bool { return taskStatus(t, id) == "RUNNING" })
	file := cgroupFile(t, boundProcesses(t, id)[0], "blkio", "blkio.throttle.read_bps_device", "io.max")
	if file == "" {
		t.Skip("the host has no blkio controller")
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%d:%d ", major, minor); !strings.Contains(string(text), want) || !strings.Contains(string(text), "33554432") {
		t.Errorf("the host's limits are %q", text)
	}
}
