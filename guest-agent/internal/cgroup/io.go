package cgroup

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// ioSettings limit block devices of the guest, by its numbers. The weights go to BFQ where it is, else to the cost
// model, which counts from 1 to 10000 what OCI counts from 10 to 1000.
func ioSettings(b *specs.LinuxBlockIO) []setting {
	if b == nil {
		return nil
	}
	var list []setting
	if b.Weight != nil && *b.Weight != 0 {
		list = append(list, weightSetting("", *b.Weight))
	}
	for _, d := range b.WeightDevice {
		if d.Weight != nil {
			list = append(list, weightSetting(fmt.Sprintf("%d:%d ", d.Major, d.Minor), *d.Weight))
		}
	}
	for _, t := range []struct {
		key     string
		devices []specs.LinuxThrottleDevice
	}{
		{"rbps", b.ThrottleReadBpsDevice},
		{"wbps", b.ThrottleWriteBpsDevice},
		{"riops", b.ThrottleReadIOPSDevice},
		{"wiops", b.ThrottleWriteIOPSDevice},
	} {
		for _, d := range t.devices {
			rate := "max"
			if d.Rate != 0 {
				rate = strconv.FormatUint(d.Rate, 10)
			}
			list = append(list, setting{file: "io.max", value: fmt.Sprintf("%d:%d %s=%s", d.Major, d.Minor, t.key, rate)})
		}
	}
	return list
}

func weightSetting(device string, weight uint16) setting {
	cost := 1 + (max(uint64(weight), 10)-10)*9999/990
	return setting{
		file: "io.bfq.weight", value: device + strconv.FormatUint(uint64(weight), 10),
		fallback: &setting{file: "io.weight", value: device + strconv.FormatUint(cost, 10)},
	}
}

func rdmaSettings(limits map[string]specs.LinuxRdma) []setting {
	var list []setting
	for _, device := range slices.Sorted(maps.Keys(limits)) {
		value := device
		if n := limits[device].HcaHandles; n != nil {
			value += fmt.Sprintf(" hca_handle=%d", *n)
		}
		if n := limits[device].HcaObjects; n != nil {
			value += fmt.Sprintf(" hca_object=%d", *n)
		}
		list = append(list, setting{file: "rdma.max", value: value})
	}
	return list
}
