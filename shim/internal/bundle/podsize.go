package bundle

import (
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// The limits of a pod as a whole, which CRI's kubelet computes from those of its containers. They are known before the
// containers are, and so is the VM's size.
const (
	annotationPeriod = "io.kubernetes.cri.sandbox-cpu-period"
	annotationQuota  = "io.kubernetes.cri.sandbox-cpu-quota"
	annotationMemory = "io.kubernetes.cri.sandbox-memory"
)

// podLimits are a pod's limits; 0 is none.
func podLimits(spec *specs.Spec) (quota int64, period, memory uint64) {
	number := func(key string) int64 {
		n, err := strconv.ParseInt(spec.Annotations[key], 10, 64)
		if err != nil || n < 0 {
			return 0
		}
		return n
	}
	return number(annotationQuota), uint64(number(annotationPeriod)), uint64(number(annotationMemory))
}
