package qemu

import "testing"

func TestTheCountersRateIsHalfOfBogoMIPS(t *testing.T) {
	for info, want := range map[string]int{
		"flags\t\t: fpu tsc constant_tsc nonstop_tsc\nbogomips\t: 4890.85\n\nflags\t\t: fpu constant_tsc\nbogomips\t: 4890.85\n": 2445425,
		"flags\t\t: constant_tsc\nbogomips\t: 4400.00\n":     2200000,
		"flags\t\t: fpu tsc\nbogomips\t: 4890.85\n":          0,
		"flags\t\t: constant_tsc\nbogomips\t: many\n":        0,
		"vendor_id : IBM/S390\nbogomips per cpu: 24038.00\n": 0,
		"": 0,
	} {
		if got := rateIn(info); got != want {
			t.Errorf("%q: %d kHz, want %d", info, got, want)
		}
	}
}
