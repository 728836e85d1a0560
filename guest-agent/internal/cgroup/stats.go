package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
)

// Stats reads what the group has used. A controller that is not there leaves zeros.
func (g *Group) Stats() (*agentv1.StatsResponse, error) {
	r := reader{dir: g.dir}
	cpu := r.counters("cpu.stat")
	s := &agentv1.StatsResponse{
		Cpu: &agentv1.StatsResponse_CPU{
			UsageUsec:     cpu["usage_usec"],
			UserUsec:      cpu["user_usec"],
			SystemUsec:    cpu["system_usec"],
			NrPeriods:     cpu["nr_periods"],
			NrThrottled:   cpu["nr_throttled"],
			ThrottledUsec: cpu["throttled_usec"],
		},
		Memory: &agentv1.StatsResponse_Memory{
			Usage:     r.number("memory.current", 0),
			Limit:     r.number("memory.max", math.MaxUint64),
			SwapUsage: r.number("memory.swap.current", 0),
			SwapLimit: r.number("memory.swap.max", math.MaxUint64),
			Stat:      r.counters("memory.stat"),
			Events:    r.counters("memory.events"),
		},
		Pids: &agentv1.StatsResponse_PIDs{Current: r.number("pids.current", 0)},
		Io:   parseIO(r.text("io.stat")),
	}
	if n := r.number("pids.max", math.MaxUint64); n != math.MaxUint64 {
		s.Pids.Limit = n
	}
	if r.err != nil {
		return nil, fmt.Errorf("read statistics: %w", r.err)
	}
	return s, nil
}

// reader keeps the first error that is more than a missing file.
type reader struct {
	dir string
	err error
}

func (r *reader) text(file string) string {
	text, err := os.ReadFile(filepath.Join(r.dir, file))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && r.err == nil {
		r.err = err
	}
	return string(text)
}

func (r *reader) number(file string, missing uint64) uint64 {
	n, err := readUint(filepath.Join(r.dir, file))
	if err == nil {
		return n
	}
	if !errors.Is(err, fs.ErrNotExist) && r.err == nil {
		r.err = err
	}
	return missing
}

func (r *reader) counters(file string) map[string]uint64 {
	values := map[string]uint64{}
	for key, value := range parseFlat(r.text(file)) {
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			values[key] = n
		}
	}
	return values
}

// parseFlat reads lines of a key and a value.
func parseFlat(text string) map[string]string {
	values := map[string]string{}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			values[key] = value
		}
	}
	return values
}

// parseIO reads lines such as "254:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0".
func parseIO(text string) []*agentv1.StatsResponse_IO {
	var list []*agentv1.StatsResponse_IO
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		major, minor, ok := strings.Cut(fields[0], ":")
		ma, err1 := strconv.ParseUint(major, 10, 32)
		mi, err2 := strconv.ParseUint(minor, 10, 32)
		if !ok || err1 != nil || err2 != nil {
			continue
		}
		io := &agentv1.StatsResponse_IO{Major: uint32(ma), Minor: uint32(mi)}
		for _, f := range fields[1:] {
			key, value, _ := strings.Cut(f, "=")
			n, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				continue
			}
			switch key {
			case "rbytes":
				io.Rbytes = n
			case "wbytes":
				io.Wbytes = n
			case "rios":
				io.Rios = n
			case "wios":
				io.Wios = n
			}
		}
		list = append(list, io)
	}
	return list
}

// OOMKills is how many processes of the group the kernel has killed for want of memory.
func (g *Group) OOMKills() uint64 {
	r := reader{dir: g.dir}
	return r.counters("memory.events")["oom_kill"]
}

// EventsFile is the file that changes with OOMKills.
func (g *Group) EventsFile() string { return filepath.Join(g.dir, "memory.events") }
