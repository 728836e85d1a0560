package qemu

import (
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
)

// counterRate is the rate of the host's time stamp counter in kHz, to five kHz; 0 where it does not run at a constant
// rate, or there is none.
//
// Where that counter is known, Linux waits by it, so BogoMIPS are twice its MHz.
func counterRate() int {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return 0
	}
	return rateIn(string(info))
}

// rateIn reads a /proc/cpuinfo; all its processors say the same.
func rateIn(info string) int {
	constant, rate := false, 0
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(name) {
		case "flags":
			constant = slices.Contains(strings.Fields(value), "constant_tsc")
		case "bogomips":
			if mips, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil {
				rate = int(math.Round(mips * 500))
			}
		}
	}
	if !constant {
		return 0
	}
	return rate
}
