package container

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// number is a block device's.
type number struct{ major, minor int64 }

// standIns are the numbers here of the disks that stand for the host's.
func standIns(list []*agentv1.Storage) (map[number]number, error) {
	m := map[number]number{}
	for _, s := range list {
		if len(s.GetStandsFor()) == 0 || s.GetSerial() == "" {
			continue
		}
		here, err := numberOf(s.GetSerial())
		if err != nil {
			return nil, fmt.Errorf("storage %q: %w", s.GetSerial(), err)
		}
		for _, d := range s.GetStandsFor() {
			m[number{int64(d.GetMajor()), int64(d.GetMinor())}] = here
		}
	}
	return m, nil
}

func numberOf(serial string) (n number, err error) {
	device, err := findDevice(serial)
	if err != nil {
		return n, err
	}
	text, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(device), "dev"))
	if err != nil {
		return n, err
	}
	if _, err := fmt.Sscanf(string(text), "%d:%d", &n.major, &n.minor); err != nil {
		return n, fmt.Errorf("parse the number %q of %s: %w", text, device, err)
	}
	return n, nil
}

// capacityTime is what the kernel may take to see that a disk has come, or has another size than the one before it in the
// same device: it looks in a work item of its own.
const capacityTime = 30 * time.Second

// settle waits until a disk is as large as it should be, and makes it writable or not: a device that disks come into
// does not say that of itself.
func settle(device string, s *agentv1.Storage) error {
	path := filepath.Join("/sys/block", filepath.Base(device), "size")
	want := strconv.FormatUint(s.GetSectors(), 10)
	for end := time.Now().Add(capacityTime); s.GetSectors() > 0; time.Sleep(2 * time.Millisecond) {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		got := strings.TrimSpace(string(text))
		if got == want {
			break
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s has %s sectors, not %s", device, got, want)
		}
	}
	f, err := os.Open(device)
	if err != nil {
		return err
	}
	defer f.Close()
	readOnly := 0
	if slices.Contains(s.GetOptions(), "ro") {
		readOnly = 1
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.BLKROSET, readOnly); err != nil {
		return fmt.Errorf("set whether %s can be written: %w", device, err)
	}
	return nil
}

// renumber makes limits of the host's devices those of their stand-ins. The others are the guest's own already.
func renumber(b *specs.LinuxBlockIO, disks map[number]number) *specs.LinuxBlockIO {
	out := *b
	for _, list := range []*[]specs.LinuxThrottleDevice{
		&out.ThrottleReadBpsDevice, &out.ThrottleWriteBpsDevice, &out.ThrottleReadIOPSDevice, &out.ThrottleWriteIOPSDevice,
	} {
		var ours []specs.LinuxThrottleDevice
		for _, d := range *list {
			if n, ok := disks[number{d.Major, d.Minor}]; ok {
				d.Major, d.Minor = n.major, n.minor
			}
			ours = append(ours, d)
		}
		*list = ours
	}
	return &out
}
