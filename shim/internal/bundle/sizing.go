package bundle

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/huskvm/husk/shim/internal/config"
)

// MaxVCPUs is what a VM can have.
const MaxVCPUs = 64

// granule is what guest memory comes in.
const granule = 2 << 20

// Size is a VM's.
type Size struct {
	VCPUs  uint32
	Memory uint64 // bytes, a multiple of 2 MiB
}

// Host is what the machine has. Zero values are not known and bound nothing.
type Host struct {
	CPUs   uint32
	Memory uint64 // bytes
}

// The annotations by which containerd's CRI plugin tells the first container of a pod what all of the pod's may use together.
const (
	sandboxPeriod = "io.kubernetes.cri.sandbox-cpu-period"
	sandboxQuota  = "io.kubernetes.cri.sandbox-cpu-quota"
	sandboxShares = "io.kubernetes.cri.sandbox-cpu-shares"
	sandboxMemory = "io.kubernetes.cri.sandbox-memory"
)

// The annotations by which CRI-O tells the same, as JSON of CRI's LinuxContainerResources.
var crioResources = []string{"pod-linux-resources.crio.io", "io.kubernetes.cri-o.PodLinuxResources"}

// podLimits are what all containers of a pod may use together; zero is no limit.
type podLimits struct {
	Period uint64 `json:"cpu_period"`
	Quota  int64  `json:"cpu_quota"`
	Shares uint64 `json:"cpu_shares"`
	Memory int64  `json:"memory_limit_in_bytes"`
}

// podLimitsOf reads the engine's annotations. One that is no number, or no JSON, says nothing.
func podLimitsOf(annotations map[string]string) (l podLimits) {
	for _, key := range crioResources {
		if text, ok := annotations[key]; ok && json.Unmarshal([]byte(text), &l) == nil {
			return l
		}
		l = podLimits{}
	}
	l.Quota, _ = strconv.ParseInt(annotations[sandboxQuota], 10, 64)
	l.Period, _ = strconv.ParseUint(annotations[sandboxPeriod], 10, 64)
	l.Shares, _ = strconv.ParseUint(annotations[sandboxShares], 10, 64)
	l.Memory, _ = strconv.ParseInt(annotations[sandboxMemory], 10, 64)
	return l
}

// SizeOf sizes the VM for a container: by the annotations that the configuration allows, else by the
// container's limits, else by those that CRI tells of its pod, else by the configuration's defaults. A quota of CPU is
// rounded up to whole vCPUs; to a memory limit comes the reserve for the guest itself, and 1/64 for its page structures.
// A limit or default above what the host has makes a VM as large as the host; an annotation of memory above it is an error.
func SizeOf(spec *specs.Spec, c *config.Config, host Host) (Size, error) {
	size := Size{VCPUs: c.DefaultVCPUs, Memory: uint64(c.DefaultMemory)}
	if quota, period := cpuLimit(spec); quota > 0 && period > 0 {
		size.VCPUs = vcpus(quota, period)
		if host.CPUs > 0 {
			size.VCPUs = min(size.VCPUs, host.CPUs)
		}
	}
	if limit := memoryLimit(spec); limit > 0 {
		size.Memory = withReserve(limit, c)
	}
	if host.Memory > 0 {
		size.Memory = min(size.Memory, host.Memory/granule*granule)
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
		if host.Memory > 0 && uint64(n) > host.Memory {
			return Size{}, fmt.Errorf("annotation %s is %s: the host has no more than %s", config.AnnotationMemory, n, config.Size(host.Memory))
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

// vcpus is how many a quota needs.
func vcpus(quota int64, period uint64) uint32 {
	n := uint64(quota) / period
	if uint64(quota)%period > 0 {
		n++
	}
	return uint32(max(1, min(n, MaxVCPUs)))
}

// withReserve is the memory of a VM whose containers may use limit.
func withReserve(limit uint64, c *config.Config) uint64 {
	return limit + uint64(c.GuestReserve) + limit/64
}

// cpuLimit is the container's quota, else its pod's; zero is none.
func cpuLimit(spec *specs.Spec) (quota int64, period uint64) {
	if r := spec.Linux.Resources; r != nil {
		if quota, period := cpuQuota(r); quota > 0 {
			return quota, period
		}
	}
	pod := podLimitsOf(spec.Annotations)
	return pod.Quota, cmp.Or(pod.Period, defaultPeriod)
}

// defaultPeriod is the kernel's, in microseconds.
const defaultPeriod = 100_000

func cpuQuota(r *specs.LinuxResources) (quota int64, period uint64) {
	if r.CPU == nil || r.CPU.Quota == nil {
		return 0, 0
	}
	period = defaultPeriod
	if r.CPU.Period != nil && *r.CPU.Period > 0 {
		period = *r.CPU.Period
	}
	return *r.CPU.Quota, period
}

// memoryLimit is the container's, else its pod's, and 0 when there is none; CRI implementations say so with -1 or a huge
// number.
func memoryLimit(spec *specs.Spec) uint64 {
	if r := spec.Linux.Resources; r != nil {
		if limit := limitOf(r); limit > 0 {
			return limit
		}
	}
	return finite(podLimitsOf(spec.Annotations).Memory)
}

func limitOf(r *specs.LinuxResources) uint64 {
	if r.Memory == nil || r.Memory.Limit == nil {
		return 0
	}
	return finite(*r.Memory.Limit)
}

func finite(limit int64) uint64 {
	if limit > 0 && limit < math.MaxInt64>>8 {
		return uint64(limit)
	}
	return 0
}

// HasMemoryLimit says whether the container, or its pod, asked for one.
func HasMemoryLimit(spec *specs.Spec) bool { return memoryLimit(spec) > 0 }

// Shares is the weight of the sandbox among its neighbours on the host, as cgroup v1 counts; 0 is the kernel's default.
func Shares(spec *specs.Spec) uint64 {
	shares := podLimitsOf(spec.Annotations).Shares
	if r := spec.Linux.Resources; shares == 0 && r != nil && r.CPU != nil && r.CPU.Shares != nil {
		shares = *r.CPU.Shares
	}
	return shares
}

// Cpuset are the CPUs and memory nodes of the host that the container is held to. They are the VMM's, not the guest's.
func Cpuset(r *specs.LinuxResources) (cpus, mems string) {
	if r == nil || r.CPU == nil {
		return "", ""
	}
	return r.CPU.Cpus, r.CPU.Mems
}
