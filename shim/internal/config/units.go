package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

const (
	defaultBootTimeout = Duration(time.Minute)
	// At the fifty parts in a million by which counters differ, the guest's clock is then off by 15 ms at most.
	defaultClockInterval = Duration(5 * time.Minute)
)

// MinMemory is the least a VM boots with: kernel, agent, and room for a small process.
const MinMemory = Size(64 << 20)

// Size is a number of bytes, written as "512MiB", "512M", "1Gi" or "536870912".
type Size uint64

var units = []struct {
	suffix string
	shift  uint
}{{"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"Ki", 10}, {"Mi", 20}, {"Gi", 30}, {"K", 10}, {"M", 20}, {"G", 30}, {"", 0}}

// ParseSize reads a size with an optional binary unit.
func ParseSize(s string) (Size, error) {
	for _, unit := range units {
		digits, ok := strings.CutSuffix(s, unit.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 64)
		if err != nil || n > math.MaxInt64>>unit.shift {
			break
		}
		return Size(n << unit.shift), nil
	}
	return 0, fmt.Errorf("%q is not a size such as 512MiB or 2GiB", s)
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(text []byte) (err error) {
	*s, err = ParseSize(string(text))
	return err
}

func (s Size) String() string {
	switch {
	case s >= 1<<30 && s%(1<<30) == 0:
		return fmt.Sprintf("%dGiB", s>>30)
	case s >= 1<<20 && s%(1<<20) == 0:
		return fmt.Sprintf("%dMiB", s>>20)
	}
	return strconv.FormatUint(uint64(s), 10)
}

// Duration is written as "60s" or "2m".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 60s", text)
	}
	*d = Duration(v)
	return nil
}

func (d Duration) String() string { return time.Duration(d).String() }
