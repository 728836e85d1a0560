package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/huskvm/husk/shim/internal/footprint"
	"github.com/huskvm/husk/shim/internal/rundir"
)

// family is one metric with its samples.
type family struct {
	name, kind, help string
	samples          []string
}

func (f *family) add(labels string, value float64) {
	f.samples = append(f.samples, fmt.Sprintf("%s{%s} %s", f.name, labels, strconv.FormatFloat(value, 'f', -1, 64)))
}

// metrics prints in the text format that Prometheus and node_exporter's textfile collector read.
func metrics(h host, _ []string) error {
	dirs, err := rundir.All(h.root)
	if err != nil {
		return err
	}
	vcpu := &family{name: "husk_vcpu_seconds_total", kind: "counter", help: "CPU time of a guest's vCPUs."}
	overhead := &family{name: "husk_overhead_seconds_total", kind: "counter", help: "CPU time of the VMM, and of QEMU and husk-net where they run, beside the vCPUs."}
	shim := &family{name: "husk_shim_seconds_total", kind: "counter", help: "CPU time of the shim."}
	size := &family{name: "husk_vm_memory_bytes", kind: "gauge", help: "Memory that the guest was made with."}
	guestMem := &family{name: "husk_guest_memory_bytes", kind: "gauge", help: "The guest's memory that is in use on the host."}
	overheadMem := &family{name: "husk_overhead_memory_bytes", kind: "gauge", help: "Memory of the VMM, and of QEMU and husk-net where they run, beside the guest's."}
	shimMem := &family{name: "husk_shim_memory_bytes", kind: "gauge", help: "Memory of the shim."}
	for _, dir := range dirs {
		s, err := dir.Load()
		if err != nil || life(dir, s) != "running" {
			continue
		}
		u, err := footprint.Of(s.Shim.PID, s.VMM.PID)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has just ended
		}
		if err != nil {
			return err
		}
		labels := fmt.Sprintf("namespace=%q,sandbox=%q", s.Namespace, s.ID)
		for i, t := range u.VCPUs {
			vcpu.add(fmt.Sprintf("%s,vcpu=\"%d\"", labels, i), t.Seconds())
		}
		overhead.add(labels, u.Overhead.Seconds())
		shim.add(labels, u.Shim.Seconds())
		size.add(labels, float64(s.Memory))
		guestMem.add(labels, float64(u.Guest))
		overheadMem.add(labels, float64(u.OverheadMem))
		shimMem.add(labels, float64(u.ShimMem))
	}
	for _, f := range []*family{vcpu, overhead, shim, size, guestMem, overheadMem, shimMem} {
		fmt.Fprintf(h.out, "# HELP %s %s\n# TYPE %s %s\n", f.name, f.help, f.name, f.kind)
		for _, sample := range f.samples {
			fmt.Fprintln(h.out, sample)
		}
	}
	return nil
}
