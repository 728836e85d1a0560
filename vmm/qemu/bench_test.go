package qemu

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// BenchmarkStart is the time from Start to the kernel's first line on its console, and to its init, which has no part
// of its own in either; for QEMU's machine as it is used and for others. The least of all rounds counts: what is more
// is the host's doing. The variants take turns.
//
//	HUSK_TEST_KERNEL=… go test -run - -bench Start -benchtime 5x
func BenchmarkStart(b *testing.B) {
	words := func(change func(string) string) func(*Config) {
		return func(c *Config) { c.Cmdline = change(c.Cmdline) }
	}
	machine := func(old, new string) func(*board) {
		return func(m *board) { m.tcg = strings.ReplaceAll(m.tcg, old, new) }
	}
	variants := []struct {
		name  string
		board func(*board)
		with  func(*Config)
	}{
		{"as_used", nil, nil},
		{"no_rate", nil, words(func(s string) string { return strings.ReplaceAll(s, "tsc_early_khz=", "nothing=") })},
		{"nolapic_timer", nil, words(func(s string) string { return "nolapic_timer " + s })},
		{"quiet", nil, words(func(s string) string { return "quiet " + s })},
		{"rtc_off", machine("rtc=on", "rtc=off"), nil},
		{"serial", machine("isa-serial=off", "isa-serial=on"), nil},
		{"option_roms", machine("x-option-roms=off", "x-option-roms=on"), nil},
		{"1_vcpu", nil, func(c *Config) { c.VCPUs = 1 }},
		{"4_vcpus", nil, func(c *Config) { c.VCPUs = 4 }},
		{"multi_thread", nil, func(c *Config) { c.Binary.Version = codeLocked }},
		{"qemu64", func(m *board) { m.cpu = "qemu64" }, nil},
	}
	type figures struct{ first, up time.Duration }
	least := map[string]figures{}
	used := boards["amd64"]
	defer func() { boards["amd64"] = used }()
	for b.Loop() {
		for _, v := range variants {
			m := used
			if v.board != nil {
				v.board(&m)
			}
			boards["amd64"] = m
			c, console := config(b, "stay")
			if v.with != nil {
				v.with(&c)
			}
			began := time.Now()
			p, err := Start(b.Context(), c)
			must(b, err)
			said := record(console)
			must(b, p.Run(b.Context()))
			first, up := said.when("\n", began), said.when("guest: up", began)
			must(b, p.Close())
			<-said.done
			if up == 0 {
				fmt.Fprintf(os.Stderr, "%s: the guest does not come up: %v\n%s\n", v.name, p.End(), said)
				continue
			}
			f, ok := least[v.name]
			if !ok {
				f = figures{first, up}
			}
			least[v.name] = figures{min(f.first, first), min(f.up, up)}
		}
	}
	for _, v := range variants {
		f := least[v.name]
		fmt.Printf("%-14s first line %4d ms, init %4d ms\n", v.name, f.first.Milliseconds(), f.up.Milliseconds())
	}
}
