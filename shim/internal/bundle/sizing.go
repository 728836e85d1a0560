package bundle

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/huskvm/husk/shim/internal/config"
)

// MaxVCPUs is what a VM can have.
const MaxVCPUs = 64

// maxMemoryLimit is a limit that means none.
const maxMemoryLimit = math.MaxInt64 >> 8

// granule is what guest memory comes in.
const granule = 2 << 20

// Size is a VM's.
type Size struct {
	VCPUs  uint32
	Memory uint64 // bytes, a multiple of 2 MiB
}

// SizeOf sizes the VM for a container: by the annotations that the configuration allows, else by the limits of its pod
// or its own, else by the configuration's defaults. A quota of CPU is rounded up to whole vCPUs; to a
// memory limit comes the reserve for the guest itself, and 1/64 for its page structures.
func SizeOf(spec *specs.Spec, c *config.Config) (Size, error) {
	size := Size{VCPUs: c.DefaultVCPUs, Memory: uint64(c.DefaultMemory)}
	if quota, period := cpuLimit(spec); quota > 0 && period > 0 {
		vcpus := (uint64(quota) + period - 1) / period
		size.VCPUs = uint32(max(1, min(vcpus, MaxVCPUs)))
	}
	if limit := memoryLimit(spec); limit > 0 {
		size.Memory = limit + uint64(c.GuestReserve) + limit/64
	}
	quota, period, memory := podLimits(spec)
	if quota > 0 && period > 0 {
		size.VCPUs = uint32(max(1, min((uint64(quota)+period-1)/period, MaxVCPUs)))
	}
	if memory > 0 && memory < maxMemoryLimit {
		size.Memory = memory + uint64(c.GuestReserve) + memory/64
	}
	if text, ok := spec.Annotations[config.AnnotationVCPUs]; ok {
		if err := allowed(c, config.AnnotationVCPUs); err != nil {
			return Size{}, err
		}
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil || n < 1 || n > MaxVCPUs {
			return Size{}, fmt.Errorf("annotation %s is %q: it must be a number from 1 to %d", config.AnnotationVCPUs, text, MaxVCPUs)
		}
		size.VCPUs = uint32(n)
	}
	if text, ok := spec.Annotations[config.AnnotationMemory]; ok {
		if err := allowed(c, config.AnnotationMemory); err != nil {
			return Size{}, err
		}
		n, err := config.ParseSize(text)
		if err != nil {
			return Size{}, fmt.Errorf("annotation %s: %w", config.AnnotationMemory, err)
		}
		if n < config.MinMemory {
			return Size{}, fmt.Errorf("annotation %s is %s: too little memory for a VM, which needs at least %s",
				config.AnnotationMemory, n, config.MinMemory)
		}
		size.Memory = uint64(n)
	}
	size.Memory = (max(size.Memory, uint64(config.MinMemory)) + granule - 1) / granule * granule
	return size, nil
}

func allowed(c *config.Config, annotation string) error {
	if slices.Contains(c.AllowedAnnotations, annotation) {
		return nil
	}
	return fmt.Errorf("annotation %s is not allowed here: add it to allowed_annotations in husk's configuration", annotation)
}

func cpuLimit(spec *specs.Spec) (quota int64, period uint64) {
	if r := spec.Linux.Resources; r != nil && r.CPU != nil && r.CPU.Quota != nil {
		period = 100_000
		if r.CPU.Period != nil && *r.CPU.Period > 0 {
			period = *r.CPU.Period
		}
		return *r.CPU.Quota, period
	}
	return 0, 0
}

// memoryLimit is 0 when there is none; CRI implementations say so with -1 or a huge number.
func memoryLimit(spec *specs.Spec) uint64 {
	if r := spec.Linux.Resources; r != nil && r.Memory != nil && r.Memory.Limit != nil {
		if limit := *r.Memory.Limit; limit > 0 && limit < maxMemoryLimit {
			return uint64(limit)
		}
	}
	return 0
}

// HasMemoryLimit says whether the container asked for one.
func HasMemoryLimit(spec *specs.Spec) bool { return memoryLimit(spec) > 0 }
