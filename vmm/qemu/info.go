package qemu

import "context"

// Info is what QEMU says of its machine.
type Info struct {
	Status      string // a RunState of qapi/run-state.json: running, paused, prelaunch, …
	Threads     []int  // ids of the threads that run the vCPUs, by vCPU, in QEMU's pid namespace
	MemoryBytes uint64
}

// Info asks QEMU.
func (p *Process) Info(ctx context.Context) (Info, error) {
	var i Info
	var err error
	if i.Status, err = p.status(ctx); err != nil {
		return Info{}, err
	}
	var cpus []struct {
		Thread int `json:"thread-id"`
	}
	if err := p.qmp.call(ctx, "query-cpus-fast", &cpus); err != nil {
		return Info{}, err
	}
	for _, c := range cpus {
		i.Threads = append(i.Threads, c.Thread)
	}
	var memory struct {
		Base uint64 `json:"base-memory"`
	}
	if err := p.qmp.call(ctx, "query-memory-size-summary", &memory); err != nil {
		return Info{}, err
	}
	i.MemoryBytes = memory.Base
	return i, nil
}

func (p *Process) status(ctx context.Context) (string, error) {
	var s struct {
		Status string `json:"status"`
	}
	err := p.qmp.call(ctx, "query-status", &s)
	return s.Status, err
}
