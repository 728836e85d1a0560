package arch

import (
	"math/bits"

	"github.com/huskvm/husk/vmm/kvm"
)

// Bits of CPUID that are decided here.
const (
	leaf1ECXMonitor     = 1 << 3
	leaf1ECXVMX         = 1 << 5
	leaf1ECXDeadline    = 1 << 24
	leaf1ECXOSXSAVE     = 1 << 27
	leaf1ECXHypervisor  = 1 << 31
	leaf1EDXHTT         = 1 << 28
	leaf6EAXARAT        = 1 << 2
	leaf80000001SVM     = 1 << 2
	leaf80000001Legacy  = 1 << 1                // HTT means cores, not threads
	leaf80000001Perf    = 1<<23 | 1<<24 | 1<<28 // core, northbridge and last level cache counters
	kvmFeatureAsyncPF   = 1 << 4
	kvmFeatureAsyncExit = 1 << 10
	kvmFeatureAsyncInt  = 1 << 14
)

// kvmFeatures is KVM's own leaf. The one before it has its signature, by which a guest knows that it is on KVM.
const kvmFeatures = 0x40000001

// The first four letters of the vendor's name, from leaf 0.
const (
	vendorAMD   = 0x68747541 // "Auth"
	vendorHygon = 0x6f677948 // "Hygo"
)

// topology is the place of vCPU id in one package of n cores with one thread each, all sharing the last level
// cache. A vCPU is scheduled by itself, so threads that claim to share a core would mislead the guest's scheduler.
type topology struct {
	id, n int
	amd   bool // or Hygon: some leaves mean something else there
}

// width is how many bits of the APIC id number the cores.
func (t topology) width() uint32 { return uint32(bits.Len(uint(t.n - 1))) }

// ids is how many APIC ids the package has room for, a power of two.
func (t topology) ids() uint32 { return 1 << t.width() }

// guestCPUID is what the CPUID instruction answers on a vCPU: what the host's processor and KVM support, with the
// topology of the guest instead of the host's.
func guestCPUID(supported []kvm.CPUIDEntry, t topology) []kvm.CPUIDEntry {
	out := make([]kvm.CPUIDEntry, 0, len(supported)+4)
	var maxBasic uint32
	for _, e := range supported {
		switch e.Function {
		case 0:
			maxBasic = e.EAX
			t.amd = e.EBX == vendorAMD || e.EBX == vendorHygon
		case 0xb, 0x1f:
			continue // made anew below: the host's has the host's number of levels
		}
		adjust(&e, t)
		out = append(out, e)
	}
	for _, leaf := range []uint32{0xb, 0x1f} {
		if leaf <= maxBasic {
			out = append(out, extendedTopology(leaf, t)...)
		}
	}
	return out
}

// adjust changes one leaf from the host's to the guest's.
func adjust(e *kvm.CPUIDEntry, t topology) {
	id, n := uint32(t.id), uint32(t.n)
	switch e.Function {
	case 1:
		e.EBX = e.EBX&0xffff | min(t.ids(), 255)<<16 | id<<24
		e.ECX |= leaf1ECXHypervisor
		// KVM emulates the deadline timer whatever the processor has, and doesn't list it since it depends on
		// the interrupt controllers being KVM's. With it and ARAT no PIT is needed.
		e.ECX |= leaf1ECXDeadline
		// Nested virtualization is attack surface that a container has no use for. MONITOR without MWAIT exits
		// would hold a host CPU. OSXSAVE mirrors CR4, and KVM keeps it.
		e.ECX &^= leaf1ECXVMX | leaf1ECXMonitor | leaf1ECXOSXSAVE
		e.EDX &^= leaf1EDXHTT
		if n > 1 {
			e.EDX |= leaf1EDXHTT
		}
	case 4: // Intel's caches
		e.EAX = e.EAX&0x3fff | min(t.ids()-1, 63)<<26 | cacheSharing(e.EAX, t)<<14
		if e.EAX&0x1f == 0 {
			e.EAX = 0
		}
	case 6:
		// The APIC timer goes on in every sleep state: an hrtimer of the host does.
		e.EAX, e.EBX, e.ECX, e.EDX = leaf6EAXARAT, 0, 0, 0
	case 0xa, 0x14, 0x80000022:
		// No performance counters and no processor trace: KVM_CAP_PMU_CAPABILITY switches them off.
		e.EAX, e.EBX, e.ECX, e.EDX = 0, 0, 0, 0
	case kvmFeatures:
		// Asynchronous page faults let a guest run something else while the host reads a page back from swap.
		// In return every such fault is two exits, and a wake-up that is missed hangs a process for good. The
		// memory of a sandbox is anonymous and its first touch needs no I/O, so there is nothing to win.
		e.EAX &^= kvmFeatureAsyncPF | kvmFeatureAsyncExit | kvmFeatureAsyncInt
	case 0x80000001:
		e.ECX &^= leaf80000001SVM | leaf80000001Perf | leaf80000001Legacy
		if n > 1 && t.amd {
			e.ECX |= leaf80000001Legacy
		}
	case 0x80000008:
		if t.amd { // bits 7:0 cores - 1, 15:12 width of the APIC id
			e.ECX = (n - 1) | t.width()<<12
		}
	case 0x8000000a, 0x80000026: // SVM; AMD's newer topology, which 0xb replaces
		e.EAX, e.EBX, e.ECX, e.EDX = 0, 0, 0, 0
	case 0x8000001d: // AMD's caches
		if e.EAX&0x1f != 0 {
			e.EAX = e.EAX&0x3fff | cacheSharing(e.EAX, t)<<14
		}
	case 0x8000001e: // AMD's topology: extended APIC id, core id with one thread each, node 0 of 1
		e.EAX, e.EBX, e.ECX, e.EDX = id, id&0xff, 0, 0
	}
}

// cacheSharing is, for a cache leaf of either vendor, the number of APIC ids that share the cache, less one. The
// third level is the package's, the others belong to a core.
func cacheSharing(eax uint32, t topology) uint32 {
	if level := eax >> 5 & 7; level < 3 {
		return 0
	}
	return t.ids() - 1
}

// extendedTopology is leaf 0xb or 0x1f: threads of a core, cores of the package, end.
func extendedTopology(leaf uint32, t topology) []kvm.CPUIDEntry {
	const smt, core = 1, 2
	level := func(index, shift, count, kind uint32) kvm.CPUIDEntry {
		return kvm.CPUIDEntry{
			Function: leaf, Index: index, Flags: kvm.CPUIDSignificantIndex,
			EAX: shift, EBX: count, ECX: kind<<8 | index, EDX: uint32(t.id),
		}
	}
	return []kvm.CPUIDEntry{
		level(0, 0, 1, smt),
		level(1, t.width(), uint32(t.n), core),
		level(2, 0, 0, 0),
	}
}
