package cri

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// counts is what pods have made on the host: one entry a thing.
type counts []string

// census lists the processes, mounts, cgroups, interfaces, sockets, leases and bundles that are there.
func census(t *testing.T) counts {
	t.Helper()
	var c counts
	for _, name := range []string{"husk-vmm", "containerd-shim", "qemu-system"} {
		for _, pid := range processes(name) {
			c = append(c, fmt.Sprint("process ", name, " ", pid))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		target := strings.Fields(line)[4]
		if strings.Contains(target, shared.Dir()) || strings.Contains(target, "/husk/") || strings.Contains(target, "/netns/") {
			c = append(c, "mount "+target)
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, "/k8s.io/") {
			c = append(c, "cgroup "+path)
		}
		return nil
	})
	for _, pattern := range []string{
		"/run/husk/*", "/run/netns/*", "/sys/class/net/*", shared.Dir() + "/leases/husk-test/10.*",
		shared.StateDir() + "/io.containerd.runtime.v2.task/*/*", shared.StateDir() + "/io.containerd.grpc.v1.cri/*/*",
	} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			// The lock is every sandbox's, and the bridge every pod's.
			if n != "/run/husk/lock" && filepath.Base(n) != "husktest0" {
				c = append(c, "file "+n)
			}
		}
	}
	return c
}

// processes are the pids of those whose names begin so; the kernel cuts names to 15 bytes.
func processes(name string) (pids []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, f := range files {
		comm, err := os.ReadFile(f)
		if err == nil && strings.HasPrefix(string(comm), name) {
			pids = append(pids, filepath.Base(filepath.Dir(f)))
		}
	}
	return pids
}

func (c counts) of(kind string) (list counts) {
	for _, entry := range c {
		if strings.HasPrefix(entry, kind+" ") {
			list = append(list, entry)
		}
	}
	return list
}

// expect waits until nothing is there that was not before.
func (c counts) expect(t *testing.T) {
	t.Helper()
	var left counts
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		left = slices.DeleteFunc(census(t), func(entry string) bool { return slices.Contains(c, entry) })
		if len(left) == 0 {
			return
		}
	}
	t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
}
