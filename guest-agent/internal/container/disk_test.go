package container

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestLimitsOfTheHostsDevicesAreThoseOfTheirStandIns(t *testing.T) {
	throttle := func(major, minor int64) (list []specs.LinuxThrottleDevice) {
		d := specs.LinuxThrottleDevice{Rate: 7}
		d.Major, d.Minor = major, minor
		return append(list, d)
	}
	host := specs.LinuxBlockIO{ThrottleReadBpsDevice: throttle(8, 1), ThrottleWriteIOPSDevice: throttle(252, 0)}
	got := renumber(&host, map[number]number{{8, 1}: {252, 16}})
	want := &specs.LinuxBlockIO{ThrottleReadBpsDevice: throttle(252, 16), ThrottleWriteIOPSDevice: throttle(252, 0)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if host.ThrottleReadBpsDevice[0].Major != 8 {
		t.Error("the original was changed")
	}
}
