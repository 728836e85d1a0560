package qemu

import (
	"os"
	"testing"
)

// The machines of other architectures are complete with all that they are given, except for a kernel of their own. Each
// skips without its QEMU, installed or named by HUSK_TEST_QEMU_<GOARCH>; pseries looks into its kernel, so there
// HUSK_TEST_KERNEL_ppc64le names one.
func TestMachinesOfOtherArchitecturesExist(t *testing.T) {
	for _, goarch := range []string{"arm64", "riscv64", "s390x", "ppc64le"} {
		t.Run(goarch, func(t *testing.T) {
			q, err := Find(goarch, os.Getenv("HUSK_TEST_QEMU_"+goarch))
			if err != nil {
				t.Skip(err)
			}
			c := lone(t)
			c.Binary, c.Arch, c.VCPUs, c.MemoryBytes = q, goarch, 2, 256<<20
			if goarch == "ppc64le" { // looks into its kernel
				must(t, c.Kernel.Close())
				c.Kernel, err = os.Open(os.Getenv("HUSK_TEST_KERNEL_" + goarch))
				if err != nil {
					t.Skip(err)
				}
			}
			ours, theirs, err := Pair("console")
			must(t, err)
			defer ours.Close()
			c.Console = theirs
			p := start(t, c)
			if i, err := p.Info(t.Context()); err != nil || i.Status != "prelaunch" || len(i.Threads) != c.Processors() {
				t.Errorf("got %+v, %v", i, err)
			}
		})
	}
}
