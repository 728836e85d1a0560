package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"
)

// counts is what of husk is on the host: one entry a thing.
type counts []string

// census lists every process, mount, cgroup, interface, socket and file that a sandbox may have made.
func census(t *testing.T) counts {
	t.Helper()
	var c counts
	add := func(kind string, names ...string) {
		for _, n := range names {
			c = append(c, kind+" "+n)
		}
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, p := range procs {
		comm, err := os.ReadFile(p)
		// The kernel cuts names to 15 bytes.
		if err == nil && (strings.HasPrefix(string(comm), "containerd-shim") || strings.HasPrefix(string(comm), "husk")) {
			if strings.TrimSpace(string(comm)) != "husk-host" {
				add("process", fmt.Sprint(strings.TrimSpace(string(comm)), " ", filepath.Base(filepath.Dir(p))))
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if target := strings.Fields(line)[4]; strings.Contains(target, shared.Dir()) || strings.Contains(target, "/husk/") {
			add("mount", target)
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && (strings.Contains(path, "/default/") || strings.Contains(path, "husk")) {
			add("cgroup", path)
		}
		return nil
	})
	for _, pattern := range []string{
		"/run/husk/*", "/run/containerd/s/*", "/sys/class/net/*", filepath.Join(shared.StateDir(), "io.containerd.runtime.v2.task/*/*"),
	} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			// The lock is every sandbox's, and there to stay.
			if n != "/run/husk/lock" {
				add("file", n)
			}
		}
	}
	sort.Strings(c)
	return c
}

// expect waits until nothing is there that was not before, and fails the test when it takes more than half a minute.
// What was there before may go: an earlier container's end may still be under way.
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
